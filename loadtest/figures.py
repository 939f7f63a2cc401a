"""What an event costs: the figures that `loadtest/plan.py` estimates with, each with where it is from.

Change a figure that was measured again, or that you know better for your own machines, only here; then
`make docs`.
"""

from typing import NamedTuple


class Figure(NamedTuple):
    """A number, what it is of, and why to believe it: measured, a setting of ours, or assumed."""

    value: float
    what: str
    source: str


API_BATCHED = Figure(
    12.9,
    "us of CPU in the API for an event that comes in a batch of 100",
    "measured: validated, in the journal, in Kafka, answered (docs/benchmarks.md)",
)
API_SINGLE = Figure(
    324,
    "us of CPU in the API for an event that comes alone",
    "measured, as above",
)
CONSUMER = Figure(
    16.5,
    "us of CPU in the consumer for an event",
    "measured (docs/benchmarks.md)",
)
CONSUMER_BATCH = Figure(
    500,
    "events in a bulk write",
    "with a backlog: a flush takes all that a poll brought",
)
BULK_WRITE = Figure(
    50,
    "ms until MongoDB has confirmed such a write",
    "assumed: a majority of three nodes in three zones, journals synced; the consumer waits meanwhile",
)
BUSY = Figure(
    0.7,
    "of what a pod, a consumer or a shard can do is asked of it",
    "a setting: the API's autoscaler; assumed for the others",
)
EVENT = Figure(
    545,
    "bytes of an event on its way to Kafka, uncompressed",
    "measured: the mean of the journeys that `make seed` makes up",
)
COMPRESSED = Figure(
    0.25,
    "of that is left in Kafka",
    "measured with `KAFKA_COMPRESSION=lz4`: 0.17 with 600 events in a batch, 0.22 with 30, 0.5 with 3",
)
JOURNAL_ENTRY = Figure(
    1.1,
    "of that is its size in the journal",
    "measured (`python -m loadtest.journal_cost`): 1.14 for an event alone, 1.02 in a batch of 100",
)
DOCUMENT = Figure(
    610,
    "bytes of its document in MongoDB, before compression",
    "measured, as above",
)
INDEX_ENTRIES = Figure(
    330,
    "bytes of its entries in seven indexes, the hashed one of a shard among them",
    "assumed: pages of a tree filled at random are two thirds full",
)
UPSERTS = Figure(
    10_000,
    "upserts a second that a shard can do",
    "assumed: three nodes with SSDs of their own, whose memory holds the indexes",
)
BROKER = Figure(
    40,
    "MB/s that producers may send to a broker",
    "assumed: two thirds of what three small machines took with three copies in LinkedIn's benchmark of 2014, "
    "so that one of them may die",
)
BROKER_DISK = Figure(
    16,
    "TB of disk that a broker has",
    "assumed: what one can still copy to a new broker within a day, at 200 MB/s",
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
    "assumed: so that consumers can double before customers have to move",
)

FIGURES = (
    *(API_BATCHED, API_SINGLE, CONSUMER, CONSUMER_BATCH, BULK_WRITE, BUSY, EVENT, COMPRESSED, JOURNAL_ENTRY),
    *(DOCUMENT, INDEX_ENTRIES, UPSERTS, BROKER, BROKER_DISK, COPIES, RETENTION, SPARE_PARTITIONS),
)
