"""`python -m loadtest.bench` (`make bench`): measures speed, side by side in one run, and writes docs/benchmarks.md.

A round takes a minute. Close other programs: the load generator, the API and the broker share the cores.
"""

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from loadtest.bench import api, consumer, report, rivals, soak
from loadtest.bench.sides import broker
from loadtest.client import run

DOCUMENT = Path(__file__).parent.parent.parent / "docs" / "benchmarks.md"
_BEGIN, _END = "<!-- written by `make bench` -->\n", "<!-- end -->\n"


def main() -> int:
    """Prints the table and writes it down; returns 0 when every target is met, else 1."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.bench", description="Measure speed, side by side.")
    parser.add_argument("--rounds", type=int, default=3, help="how often everything is measured (%(default)s)")
    parser.add_argument("--soak", type=int, default=0, metavar="SECONDS", help="also a steady load for so long (off)")
    parser.add_argument("--write", action="store_true", help=f"write the table into {DOCUMENT.name}")
    arguments = parser.parse_args()

    machine = report.machine(os.getloadavg()[0])
    rows: list[report.Row] = []
    for name, part in (("API", api), ("consumer", consumer), ("others", rivals)):
        # Each on a broker of its own: what one has sent the other need not read.
        with broker() as kafka:
            rows += part.measure(kafka, _rounds(arguments.rounds, name))
    if arguments.soak:
        with broker() as kafka:
            rows += soak.measure(kafka, arguments.soak)
    table = f"{report.table(rows)}\n\n{rivals.PROMISES}"
    print(f"{machine}\n\n{table}")
    if arguments.write:
        _write(f"{machine}\n\n{table}\n")
    return int(any(row.met is False for row in rows))


def _rounds(count: int, name: str) -> Iterator[int]:
    return iter(tqdm(range(count), desc=name, unit=" rounds", file=sys.stderr))


def _write(measured: str) -> None:
    """In the place of what was measured last."""
    before, _, rest = DOCUMENT.read_text().partition(_BEGIN)
    DOCUMENT.write_text(before + _BEGIN + measured + _END + rest.partition(_END)[2])


if __name__ == "__main__":
    sys.exit(run(main))
