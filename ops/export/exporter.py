"""A cycle of the exporter: finish planned ranges, plan new ones, write them, load them; forget customers.

A cycle can be killed at any point, and several can run at once: the next one continues.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple, Protocol

from common.errors import PulseError
from common.kafka import GroupOffsets, KafkaError
from ops.export.destination import Destination
from ops.export.forget import Forgotten, forget
from ops.export.load import Warehouse, load
from ops.export.plan import MissingEvent, begin_generation, plan, plan_backfill
from ops.export.state import Events, Exports, Forgetting, Range
from ops.export.write import write

logger = logging.getLogger(__name__)


class Progress(Protocol):
    """Receives the progress of a cycle."""

    def begin(self, ranges: int) -> None:
        """N more ranges will be written."""

    def rows(self, more: int) -> None:
        """N more rows are written."""

    def done(self) -> None:
        """One more range is written."""


class Store(Exports, Events, Forgetting, Protocol):
    """State and events together."""


class Parts(NamedTuple):
    """The parts of a cycle. `offsets` queries the offsets of the consumer's group; `missing_event`, whether its events
    are in this collection. Without `warehouse`, events are only written to files.
    """

    topic: str
    store: Store
    destination: Destination
    warehouse: Warehouse | None
    offsets: Callable[[], Mapping[int, GroupOffsets]]
    missing_event: MissingEvent
    max_rows: int
    min_age: float


@dataclass(slots=True)
class Outcome:
    """The outcome of a cycle; `problems` has a line for each failure."""

    written: list[Range] = field(default_factory=list)
    forgotten: Forgotten = field(default_factory=Forgotten)
    problems: list[str] = field(default_factory=list)


def run(parts: Parts, progress: Progress, *, new_generation: bool = False) -> Outcome:
    """Run a cycle. Blocks until it ends; a failed step is a problem in the outcome and does not stop the others."""
    outcome = Outcome()
    _try(outcome, partial(_write_planned, parts, progress, outcome))
    _try(outcome, partial(_plan, parts, new_generation=new_generation))
    _finish(parts, progress, outcome)
    return outcome


def backfill(parts: Parts, progress: Progress) -> Outcome:
    """As `run`, of the events that have no place in Kafka."""
    outcome = Outcome()
    _try(
        outcome,
        partial(plan_backfill, parts.topic, parts.store, parts.store, max_rows=parts.max_rows, min_age=parts.min_age),
    )
    _finish(parts, progress, outcome)
    return outcome


def _finish(parts: Parts, progress: Progress, outcome: Outcome) -> None:
    _try(outcome, partial(_write_planned, parts, progress, outcome))
    if parts.warehouse is not None:
        _try(outcome, partial(_load, parts, parts.warehouse, outcome))
    _try(outcome, partial(_forget, parts, outcome))


def _plan(parts: Parts, *, new_generation: bool) -> None:
    if new_generation:
        begin_generation(parts.topic, parts.store, parts.store)
    plan(
        parts.topic,
        parts.offsets,
        parts.store,
        parts.store,
        parts.missing_event,
        max_rows=parts.max_rows,
        min_age=parts.min_age,
    )


def _write_planned(parts: Parts, progress: Progress, outcome: Outcome) -> None:
    planned = parts.store.in_state(parts.topic, "planned")
    progress.begin(len(planned))
    for one in planned:
        if not parts.store.begin(one):
            continue
        files = write(
            one,
            partial(parts.store.of, one),
            parts.destination,
            on_rows=progress.rows,
            on_put=partial(parts.store.putting, one),
        )
        if parts.store.written(one, files):
            rows = sum(file.rows for file in files)
            logger.info("written", extra={"range": one.id, "rows": rows, "files": len(files)})
            outcome.written.append(replace(one, files=tuple(files)))
        progress.done()


def _load(parts: Parts, warehouse: Warehouse, outcome: Outcome) -> None:
    outcome.problems += load(parts.topic, parts.store, warehouse, parts.destination)


def _forget(parts: Parts, outcome: Outcome) -> None:
    def finish_loads() -> list[str]:
        return load(parts.topic, parts.store, parts.warehouse, parts.destination) if parts.warehouse else []

    outcome.forgotten = forget(parts.store, parts.destination, parts.warehouse, finish_loads)
    outcome.problems += outcome.forgotten.problems


def _try(outcome: Outcome, step: Callable[[], object]) -> None:
    try:
        step()
    except (PulseError, KafkaError, OSError) as error:
        outcome.problems.append(str(error))
