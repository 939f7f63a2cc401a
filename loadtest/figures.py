"""The costs of an event: the figures of the estimates in `loadtest/plan.py`, each with its source.

To change a figure after a new measurement, or for your own machines, change it here, and run `make docs`.
"""

from typing import NamedTuple


class Figure(NamedTuple):
    """A number, its meaning with the unit, and its source: a measurement, a setting, or an assumption."""

    value: float
    what: str
    source: str


API_BATCHED = Figure(
    27.5,
    "us of CPU in the API for an event in a batch of 100",
    "measured on a slow machine: validated, in the journal, in Kafka, answered (docs/benchmarks.md)",
)
API_SINGLE = Figure(
    240,
    "us of CPU in the API for a single event",
    "measured, as above",
)
CONSUMER = Figure(
    51.3,
    "us of CPU in the consumer for an event",
    "measured on a slow machine (docs/benchmarks.md)",
)
CONSUMER_BATCH = Figure(
    500,
    "events in a bulk write",
    "with a backlog: a flush writes all records of a poll",
)
BULK_WRITE = Figure(
    50,
    "ms until MongoDB confirms such a write",
    "assumed: a majority of three nodes in three zones, journals synced; the consumer waits for it",
)
BUSY = Figure(
    0.7,
    "the planned load of a pod, a consumer or a shard, as a share of its capacity",
    "a setting: the API's autoscaler; assumed for the others",
)
EVENT = Figure(
    545,
    "bytes of an event on its way to Kafka, uncompressed",
    "measured: the mean of the journeys that `make seed` generates",
)
COMPRESSED = Figure(
    0.25,
    "the compressed size in Kafka, as a share of that",
    "measured with `KAFKA_COMPRESSION=lz4`: 0.17 with 600 events in a batch, 0.22 with 30, 0.5 with 3",
)
JOURNAL_ENTRY = Figure(
    1.1,
    "its size in the journal, as a share of the uncompressed size",
    "measured (`python -m loadtest.journal_cost`): 1.14 for a single event, 1.02 in a batch of 100",
)
DOCUMENT = Figure(
    610,
    "bytes of its document in MongoDB, before compression",
    "measured, as above",
)
INDEX_ENTRIES = Figure(
    330,
    "bytes of its entries in seven indexes, including the hashed one of a shard",
    "assumed: pages of a tree filled at random are two thirds full",
)
UPSERTS = Figure(
    10_000,
    "upserts a second per shard",
    "assumed: three nodes with SSDs of their own, whose memory holds the indexes",
)
BROKER = Figure(
    40,
    "MB/s from producers to a broker",
    "assumed: two thirds of the rate of three small machines with three copies in LinkedIn's benchmark of 2014, "
    "so that one machine may fail",
)
BROKER_DISK = Figure(
    16,
    "TB of disk per broker",
    "assumed: the size that can be copied to a new broker within a day, at 200 MB/s",
)
COPIES = Figure(
    3,
    "copies in Kafka and in MongoDB",
    "a setting: `KAFKA_REPLICATION_FACTOR` in `kubernetes/overlays/gke`; assumed for MongoDB",
)
RETENTION = Figure(
    7,
    "days that Kafka keeps an event",
    "a setting: `common/topics.py`",
)
SPARE_PARTITIONS = Figure(
    2,
    "partitions for each consumer",
    "assumed: the number of consumers can double before customers must move to other partitions",
)

FIGURES = (
    *(API_BATCHED, API_SINGLE, CONSUMER, CONSUMER_BATCH, BULK_WRITE, BUSY, EVENT, COMPRESSED, JOURNAL_ENTRY),
    *(DOCUMENT, INDEX_ENTRIES, UPSERTS, BROKER, BROKER_DISK, COPIES, RETENTION, SPARE_PARTITIONS),
)
