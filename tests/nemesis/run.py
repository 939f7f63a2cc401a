"""A run: clients send, faults come and go as planned, each minute a line shows progress, the end compares all."""

import heapq
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime

from tests.nemesis import check
from tests.nemesis.clients import Sender, native, segment
from tests.nemesis.faults import KINDS, Step
from tests.nemesis.history import History
from tests.nemesis.measures import Sample, measure
from tests.nemesis.scene import Scene

CUSTOMERS = 12
EXPORT_EVERY = 20.0  # seconds

Say = Callable[[str], None]


class Run:
    """One run on a scene that serves. `rate`: accepted events per second, all clients together."""

    def __init__(self, scene: Scene, steps: Sequence[Step], rate: float, say: Say) -> None:
        self.history = History()
        self.samples: list[Sample] = []
        self.begun: list[Step] = []
        self._scene = scene
        self._steps = steps
        self._say = say
        self._now: list[Step] = []
        urls = [api.url for api in scene.apis]
        self._clients = [
            # Half of them begin at each API.
            Sender(
                urls[::-1] if number % 4 > 1 else urls, f"customer-{number}", request, rate / CUSTOMERS, self.history
            )
            for number, request in zip(range(CUSTOMERS), itertools.cycle((native, segment)), strict=False)
        ]

    def go(self, seconds: float) -> list[str]:
        """Send and break for N seconds, then repair, wait and compare; gives the faults found, a line each."""
        since = datetime.now(UTC)
        for client in self._clients:
            client.start()
        self._break(seconds)
        for client in self._clients:
            client.stop()
        self._scene.heal()
        for client in self._clients:
            client.join(120)
            if client.is_alive():
                self._scene.findings.append(f"{client.name} gets no acceptance within 120 s after the last fault")
        self._show(seconds)
        begun = time.monotonic()
        found = list(check.drain(self._scene, len(self.history.accepted)))
        self._say(f"drained in {time.monotonic() - begun:.0f} s")
        return found + list(check.faults(self._scene, self.history, since))

    def _break(self, seconds: float) -> None:
        """Begin and undo the faults at their times, as near as the calls before them allow."""
        order = itertools.count()
        begun = time.monotonic()
        due: list[tuple[float, int, Callable[[], None]]] = []

        def add(at: float, action: Callable[[], None]) -> None:
            heapq.heappush(due, (at, next(order), action))

        def begin(step: Step) -> None:
            self.begun.append(step)
            self._now.append(step)
            self._log(time.monotonic() - begun, str(step))
            undo = KINDS[step.kind].begin(self._scene, step)
            add(time.monotonic() - begun + step.hold, lambda: end(step, undo))

        def end(step: Step, undo: Callable[[], None]) -> None:
            self._log(time.monotonic() - begun, f"end of {step.kind} {' '.join(step.targets)}")
            undo()
            self._now.remove(step)

        def at_its_time(step: Step) -> None:
            add(step.at, lambda: begin(step))

        def minute(at: float) -> None:
            self._show(at)
            self.samples.append(measure(self._scene, self.history.take_seconds()))
            add(at + 60, lambda: minute(at + 60))

        def export(at: float) -> None:
            self._scene.export()
            add(at + EXPORT_EVERY, lambda: export(at + EXPORT_EVERY))

        for step in self._steps:
            at_its_time(step)
        minute(0)
        export(5)
        while (now := time.monotonic() - begun) < seconds or self._now:
            self._scene.restart_dead()
            if due and due[0][0] <= now:
                heapq.heappop(due)[2]()
            else:
                time.sleep(0.05)

    def _show(self, at: float) -> None:
        stored = self._scene.stored()
        faults = f"faults {len(self.begun)}, now: {'; '.join(map(str, self._now)) or 'none'}" if self._steps else ""
        self._say(
            f"{at // 60:4.0f}:{at % 60:02.0f}  accepted {len(self.history.accepted):,}  "
            f"stored {'?' if stored is None else f'{stored:,}'}  {faults}"
        )

    def _log(self, at: float, what: str) -> None:
        with (self._scene.folder / "faults.log").open("a") as file:
            file.write(f"{datetime.now(UTC):%H:%M:%S} {at:8.1f} {what}\n")

    def summary(self) -> Iterator[str]:
        """What was done, for the end."""
        yield f"accepted {len(self.history.accepted):,} events; answers {dict(sorted(self.history.answers.items()))}"
        kinds = [f"{sum(step.kind == kind for step in self.begun)} {kind}" for kind in KINDS]
        yield f"{len(self.begun)} faults: {', '.join(kinds)}"
