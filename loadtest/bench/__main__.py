"""`python -m loadtest.bench` (`make bench`): measures speed, side by side in one run, and writes docs/benchmarks.md.

A round takes six minutes. Close other programs: the load generator, the API and the broker share the cores.
"""

import argparse
import os
import sys

from loadtest.bench import api, comparison, consumer, report
from loadtest.bench.sides import Broker, broker
from loadtest.client import run, whole_number

_PARTS = ("rivals", "api", "consumer")


def main() -> int:
    """Print the tables, and write them if requested; returns 0 if every target is met, otherwise 1."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.bench", description="Measure speed, side by side.")
    parser.add_argument("--rounds", type=whole_number(1), default=3, help="measure all parts N times (%(default)s)")
    parser.add_argument("--only", choices=_PARTS, help="measure only this part")
    parser.add_argument("--write", action="store_true", help=f"write the tables into {report.DOCUMENT.name}")
    arguments = parser.parse_args()

    all_met = True
    for part in [arguments.only] if arguments.only else _PARTS:
        all_met &= _part(part, arguments.rounds, write=arguments.write)
    return int(not all_met)


def _part(name: str, rounds: int, *, write: bool) -> bool:
    """Run a part for N rounds; returns whether its targets are met."""
    machine = report.machine(os.getloadavg()[0])
    # Each part has its own broker, so it does not read the records of another.
    with broker() as kafka:
        rows, comparison = _measure(name, kafka, rounds)
    measured = "\n\n".join(filter(None, [machine, comparison, report.table(rows)]))
    print(f"{measured}\n")
    if write:
        report.DOCUMENT.write_text(report.replaced(report.DOCUMENT.read_text(), name, measured))
    return not any(row.met is False for row in rows)


def _measure(name: str, kafka: Broker, rounds: int) -> tuple[list[report.Row], str]:
    match name:
        case "rivals":
            return comparison.measure(kafka, rounds)
        case "api":
            return api.measure(kafka, rounds), ""
    return consumer.measure(kafka, rounds), ""


if __name__ == "__main__":
    sys.exit(run(main))
