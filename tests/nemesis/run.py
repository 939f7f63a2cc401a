"""A run: clients send, faults begin and end as planned, a line per minute shows the progress, and a check follows."""

import heapq
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial

from tests.measures import percentile
from tests.nemesis import check
from tests.nemesis.clients import Sdk, Sender, native, segment
from tests.nemesis.faults import KINDS, Step, Undo
from tests.nemesis.history import History
from tests.nemesis.scene import Scene

SENDERS = 12
EXPORT_EVERY = 20.0  # seconds

Say = Callable[[str], None]


class Agenda:
    """Actions with their times, in seconds since the creation of the agenda."""

    def __init__(self) -> None:
        self._begun = time.monotonic()
        self._order = itertools.count()
        self._due: list[tuple[float, int, Callable[[], None]]] = []

    @property
    def now(self) -> float:
        return time.monotonic() - self._begun

    def add(self, at: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._due, (at, next(self._order), action))

    def run_next(self) -> bool:
        """Run the next action if it is due."""
        if not self._due or self._due[0][0] > self.now:
            return False
        heapq.heappop(self._due)[2]()
        return True


class Run:
    """One run on a running scene. `rate`: accepted events per second of all clients together."""

    def __init__(self, scene: Scene, steps: Sequence[Step], rate: float, say: Say) -> None:
        self.history = History()
        self.begun: list[Step] = []
        self._scene = scene
        self._steps = steps
        self._say = say
        self._now: list[Step] = []
        self._agenda = Agenda()
        urls = [f"http://127.0.0.1:{scene.links[f'link to api-{number}'].port}" for number in (1, 2)]
        share = rate / (SENDERS + len(urls))
        self._clients: list[Sender | Sdk] = [
            # Half of the clients begin at each API.
            Sender(urls[::-1] if number % 4 > 1 else urls, f"customer-{number}", request, share, self.history)
            for number, request in zip(range(SENDERS), itertools.cycle((native, segment)), strict=False)
        ]
        self._clients += [Sdk(url, f"sdk-{number}", share, self.history) for number, url in enumerate(urls)]

    def go(self, seconds: float) -> list[str]:
        """Send events and break parts for N seconds, then repair, wait and check; returns a line per fault found."""
        since = datetime.now(UTC)
        self._agenda = Agenda()
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
        self._show()
        begun = time.monotonic()
        found = list(check.drain(self._scene, len(self.history.accepted)))
        self._say(f"drained in {time.monotonic() - begun:.0f} s")
        return found + list(check.faults(self._scene, self.history, since))

    def _break(self, seconds: float) -> None:
        """Begin and undo the faults at their times, or later if earlier calls take longer."""
        for step in self._steps:
            self._agenda.add(step.at, partial(self._begin, step))
        self._agenda.add(0, self._minute)
        self._agenda.add(5, self._export)
        while self._agenda.now < seconds or self._now:
            self._scene.restart_dead()
            if not self._agenda.run_next():
                time.sleep(0.05)

    def _begin(self, step: Step) -> None:
        if any(set(step.targets) & set(other.targets) for other in self._now):
            # An earlier fault of this part lasts longer than planned, since the part stops slowly.
            self._agenda.add(self._agenda.now + 1, partial(self._begin, step))
            return
        self.begun.append(step)
        self._now.append(step)
        self._log(str(step))
        undo = KINDS[step.kind].begin(self._scene, step)
        self._agenda.add(self._agenda.now + step.hold, partial(self._end, step, undo))

    def _end(self, step: Step, undo: Undo) -> None:
        if not undo():
            self._agenda.add(self._agenda.now + 0.2, partial(self._end, step, undo))
            return
        self._now.remove(step)
        self._log(f"end of {step.kind} {' '.join(step.targets)}")

    def _export(self) -> None:
        self._scene.export()
        self._agenda.add(self._agenda.now + EXPORT_EVERY, self._export)

    def _minute(self) -> None:
        self._show()
        self._agenda.add(self._agenda.now + 60, self._minute)

    def _show(self) -> None:
        at = self._agenda.now
        stored = self._scene.stored()
        self._say(
            f"{at // 60:4.0f}:{at % 60:02.0f}  accepted {len(self.history.accepted):,}  "
            f"stored {'?' if stored is None else f'{stored:,}'}  "
            f"faults {len(self.begun)}, now: {'; '.join(map(str, self._now)) or 'none'}"
        )

    def _log(self, what: str) -> None:
        with (self._scene.folder / "faults.log").open("a") as file:
            file.write(f"{datetime.now(UTC):%H:%M:%S} {self._agenda.now:8.1f} {what}\n")

    def summary(self) -> Iterator[str]:
        """The summary of a run: accepted events, answers and faults."""
        yield f"accepted {len(self.history.accepted):,} events; answers {dict(sorted(self.history.answers.items()))}"
        seconds = self.history.take_seconds()
        p50, p99 = (1000 * percentile(seconds, part) for part in (0.5, 0.99))
        yield f"acceptances: p50 {p50:.1f} ms, p99 {p99:.1f} ms"
        kinds = [f"{sum(step.kind == kind for step in self.begun)} {kind}" for kind in KINDS]
        yield f"{len(self.begun)} faults: {', '.join(kinds)}"
