"""Estimates the resources for a rate of events from the cost of one event (`loadtest/figures.py`).

`python -m loadtest.plan [--rate N …]` prints a Markdown table; without a rate, the one in docs/scaling.md, which
`make docs` writes.
"""

import argparse
import math
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from loadtest.figures import (
    API_BATCHED,
    API_SINGLE,
    BROKER,
    BROKER_DISK,
    BULK_WRITE,
    BUSY,
    COMPRESSED,
    CONSUMER,
    CONSUMER_BATCH,
    COPIES,
    DOCUMENT,
    EVENT,
    FIGURES,
    INDEX_ENTRIES,
    JOURNAL_ENTRY,
    RETENTION,
    SPARE_PARTITIONS,
    UPSERTS,
)

DOCUMENT_FILE = Path(__file__).parent.parent / "docs" / "scaling.md"
RATES = (1_000, 10_000, 50_000, 100_000, 1_000_000)

LEAST_API_PODS = 2  # one answers during the replacement of the other
LEAST_PARTITIONS = 3  # KAFKA_PARTITIONS
_SECONDS_A_DAY = 86_400


@dataclass(frozen=True, slots=True)
class Plan:
    """The resources for a rate. A pod has one CPU; sizes are of all copies together, in units of 1,000."""

    rate: int  # events a second
    api_pods_batched: int
    api_pods_single: int
    journal_gigabytes_an_hour: float  # in all pods together, while Kafka is unavailable
    partitions: int
    consumers: int
    shards: int
    brokers: int
    megabytes_a_second: float  # into Kafka from producers, and out again to consumers
    kafka_terabytes: float
    mongodb_terabytes_a_day: float


def plan(rate: int) -> Plan:
    """The resources for N events a second, at least the initial ones of the manifests."""
    consumers = _enough(rate, consumer_rate())
    megabytes = rate * EVENT.value * COMPRESSED.value / 1e6
    copies_a_day = rate * _SECONDS_A_DAY * COPIES.value
    kafka = copies_a_day * RETENTION.value * EVENT.value * COMPRESSED.value / 1e12
    return Plan(
        rate=rate,
        api_pods_batched=max(LEAST_API_PODS, _enough(rate, 1e6 / API_BATCHED.value)),
        api_pods_single=max(LEAST_API_PODS, _enough(rate, 1e6 / API_SINGLE.value)),
        journal_gigabytes_an_hour=rate * 3600 * EVENT.value * JOURNAL_ENTRY.value / 1e9,
        partitions=max(LEAST_PARTITIONS, math.ceil(consumers * SPARE_PARTITIONS.value)),
        consumers=consumers,
        shards=_enough(rate, UPSERTS.value),
        brokers=math.ceil(max(COPIES.value, megabytes / BROKER.value, kafka / BROKER_DISK.value)),
        megabytes_a_second=megabytes,
        kafka_terabytes=kafka,
        mongodb_terabytes_a_day=copies_a_day * (DOCUMENT.value + INDEX_ENTRIES.value) / 1e12,
    )


def consumer_rate() -> float:
    """The events a second that one consumer can store; it alternates between its CPU and waits for MongoDB."""
    return CONSUMER_BATCH.value / (CONSUMER_BATCH.value * CONSUMER.value / 1e6 + BULK_WRITE.value / 1e3)


def _enough(rate: int, each: float) -> int:
    return math.ceil(rate / (each * BUSY.value))


def table(rates: Sequence[int]) -> str:
    """The plans for some rates as a Markdown table, with a column for each."""
    rows: dict[str, Callable[[Plan], str]] = {
        "events a second": lambda plan: f"{plan.rate:,}",
        "API pods, batches of 100": lambda plan: f"{plan.api_pods_batched:,}",
        "API pods, single events": lambda plan: f"{plan.api_pods_single:,}",
        "GB an hour in journals": lambda plan: f"{plan.journal_gigabytes_an_hour:,.1f}",
        "partitions": lambda plan: f"{plan.partitions:,}",
        "consumers": lambda plan: f"{plan.consumers:,}",
        "MongoDB shards": lambda plan: f"{plan.shards:,}",
        "Kafka brokers": lambda plan: f"{plan.brokers:,}",
        "MB/s into Kafka, and out": lambda plan: f"{plan.megabytes_a_second:,.1f}",
        "TB in Kafka": lambda plan: f"{plan.kafka_terabytes:,.1f}",
        "TB a day in MongoDB": lambda plan: f"{plan.mongodb_terabytes_a_day:,.1f}",
    }
    plans = [plan(rate) for rate in rates]
    lines = [[name.ljust(24), *(cell(each).rjust(9) for each in plans)] for name, cell in rows.items()]
    lines.insert(1, ["-" * len(head) for head in lines[0]])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def figures() -> str:
    """The figures behind the plans as a Markdown table."""
    rows = (f"| {figure.value:,g} | {figure.what} | {figure.source} |\n" for figure in FIGURES)
    return "".join(["| Figure | Meaning | Source |\n|---|---|---|\n", *rows])


def document() -> str:
    """The text of docs/scaling.md with current tables, each from `<!-- its name -->` to `<!-- end -->`."""
    tables = {"plan": table(RATES), "figures": figures()}
    return re.sub(
        r"(?<=<!-- )(plan|figures) -->\n.*?(?=<!-- end -->)",
        lambda match: f"{match[1]} -->\n{tables[match[1]]}",
        DOCUMENT_FILE.read_text(),
        flags=re.DOTALL,
    )


def main() -> int:
    """Print the plan, or write it; returns 0."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.plan", description="Estimate the resources for a rate of events."
    )
    parser.add_argument("--rate", type=_rate, nargs="+", default=RATES, metavar="N", help="events a second")
    parser.add_argument("--write", action="store_true", help="update docs/scaling.md instead")
    arguments = parser.parse_args()
    if arguments.write:
        DOCUMENT_FILE.write_text(document())
    else:
        print(table(arguments.rate), end="")
        print("\nThe figures behind this estimate, and the assumptions: docs/scaling.md, loadtest/figures.py")
    return 0


def _rate(text: str) -> int:
    digits = text.replace(",", "").replace("_", "")
    if not digits.isdecimal() or int(digits) == 0:
        raise argparse.ArgumentTypeError(f"{text} is no rate; give a whole number above 0, such as 50000")
    return int(digits)


if __name__ == "__main__":
    sys.exit(main())
