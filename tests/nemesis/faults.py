"""The faults, and the order in which a seed draws them.

A fault is a function that breaks its targets and returns a function that repairs them. A new kind needs a function and
a line in `KINDS`.
"""

import contextlib
import random
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.nemesis.scene import CLOCKED, Part, Scene
from tests.servers import ApiServer

Undo = Callable[[], bool]
"""Repairs the targets, without blocking for long; returns False if it must be called again soon."""

APIS = ("api-1",), ("api-2",)
CONSUMERS = ("consumer-1",), ("consumer-2",)
BROKERS = ("broker-1",), ("broker-2",), ("broker-3",)
TWO_BROKERS = ("broker-1", "broker-2"), ("broker-2", "broker-3"), ("broker-1", "broker-3")
ALL_BROKERS = (("broker-1", "broker-2", "broker-3"),)
LINKS = [(f"link to {name}",) for name in ("api-1", "api-2", "broker-1", "broker-2", "broker-3", "mongodb")]
LINKS_TO_KAFKA = [tuple(f"link to {name}" for name in ALL_BROKERS[0])]
CLOCKS = [(f"clock of {name}",) for name in CLOCKED]
STOP_SECONDS = 75.0
"""Longer than any stop: an API takes up to 30 s, a consumer up to 60 s."""
SETTINGS: Mapping[str, Mapping[str, Sequence[str]]] = {
    "api": {
        "API_WORKERS": ("1", "2", "3"),
        "API_JOURNAL_SYNC": ("normal", "full"),
        "API_QUEUE_CAPACITY": ("100", "10000"),
        "KAFKA_COMPRESSION": ("none", "gzip", "snappy", "lz4", "zstd"),
    },
    "consumer": {
        "CONSUMER_BATCH_SIZE": ("10", "100", "500"),
        "CONSUMER_FLUSH_INTERVAL": ("100ms", "1s", "5s"),
    },
}

TOXICS: Mapping[str, tuple[str, tuple[str, ...], Mapping[str, int]]] = {
    "latency": ("latency", ("upstream", "downstream"), {"latency": 200, "jitter": 100}),
    "narrow": ("bandwidth", ("upstream", "downstream"), {"rate": 5}),
    "resets": ("reset_peer", ("downstream",), {"timeout": 1000}),
    "silence": ("timeout", ("upstream", "downstream"), {"timeout": 0}),
    "slow close": ("slow_close", ("upstream", "downstream"), {"delay": 3000}),
    "cut requests": ("limit_data", ("upstream",), {"bytes": 10_000}),
    "cut answers": ("limit_data", ("downstream",), {"bytes": 3000}),
}
"""Faults of a network: kind of toxic, streams, attributes (milliseconds, KB a second, bytes of a connection)."""


@dataclass(frozen=True, slots=True)
class Step:
    """A drawn fault: its begin and its duration in seconds, and for a restart, its settings."""

    at: float
    kind: str
    targets: tuple[str, ...]
    hold: float
    settings: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        changed = "".join(f" {name}={value}" for name, value in self.settings.items())
        return f"{self.kind} {' '.join(self.targets)}{changed} for {self.hold:g} s"


def kill(scene: Scene, step: Step) -> Undo:
    """kill -9, and a restart at the end."""
    for part in _parts(scene, step):
        part.kill()

    def undo() -> bool:
        for part in _parts(scene, step):
            part.start()
        return True

    return undo


def stop(scene: Scene, step: Step) -> Undo:
    """SIGTERM, and a restart at the end, with other settings for APIs and consumers."""
    for part in _parts(scene, step):
        part.terminate()
    deadline = time.monotonic() + STOP_SECONDS

    def undo() -> bool:
        for part in _parts(scene, step):
            if part.runs and time.monotonic() < deadline:
                return False
            if part.runs:
                scene.findings.append(f"{part.name} did not stop within {STOP_SECONDS:g} s")
                part.kill()
            part.process.env |= step.settings
            part.start()
        return True

    return undo


def freeze(scene: Scene, step: Step) -> Undo:
    """SIGSTOP to all processes of the targets: connections stay open, without answers."""
    for part in _parts(scene, step):
        part.signal(signal.SIGSTOP)

    def undo() -> bool:
        for part in _parts(scene, step):
            part.signal(signal.SIGCONT)
        return True

    return undo


def kill_worker(scene: Scene, step: Step) -> Undo:
    """kill -9 of one gunicorn worker, which gunicorn replaces."""
    for worker in _workers(scene, step):
        worker.kill()
    return lambda: True


def freeze_worker(scene: Scene, step: Step) -> Undo:
    """SIGSTOP to one gunicorn worker, while the others continue."""
    workers = _workers(scene, step)
    for worker in workers:
        worker.suspend()

    def undo() -> bool:
        for worker in workers:
            with contextlib.suppress(psutil.NoSuchProcess):
                worker.resume()
        return True

    return undo


def reload(scene: Scene, step: Step) -> Undo:
    """SIGHUP: gunicorn replaces all workers."""
    for part in _parts(scene, step):
        if part.process.child is not None:
            part.process.child.send_signal(signal.SIGHUP)
    return lambda: True


def fill_disk(scene: Scene, step: Step) -> Undo:
    """Fill the journal's disk, if the journal has one of its own."""
    fillers = [scene.journals[int(name[-1]) - 1] / "filler" for name in step.targets if scene.journal_disks]
    for filler in fillers:
        _fill(filler)

    def undo() -> bool:
        for filler in fillers:
            filler.unlink(missing_ok=True)
        return True

    return undo


def disturb(scene: Scene, step: Step) -> Undo:
    """A network fault on all connections to some servers, until its end."""
    kind, streams, attributes = TOXICS[step.settings["network"]]
    faults = contextlib.ExitStack()
    for name in step.targets:
        faults.enter_context(scene.links[name].toxic(kind, *streams, **attributes))

    def undo() -> bool:
        faults.close()
        return True

    return undo


def step_clock(scene: Scene, step: Step) -> Undo:
    """The clock jumps, and at the end of the fault jumps back."""
    for name in step.targets:
        scene.clocks.step(name.removeprefix("clock of "), int(step.settings["seconds"]))

    def undo() -> bool:
        for name in step.targets:
            scene.clocks.step(name.removeprefix("clock of "), 0)
        return True

    return undo


def kill_second_exporter(scene: Scene, step: Step) -> Undo:
    """A second exporter, which may run concurrently with the first, and its kill -9 at the end."""
    exporter = scene.exporter("second-exporter")
    exporter.start()

    def undo() -> bool:
        exporter.kill()
        return True

    return undo


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of fault: its possible targets, and its least and longest duration in seconds."""

    begin: Callable[[Scene, Step], Undo]
    targets: Sequence[tuple[str, ...]]
    least: float
    most: float
    settings: Mapping[str, Sequence[str]] = field(default_factory=dict)


KINDS = {
    "kill": Kind(kill, [*APIS, *CONSUMERS, *BROKERS, ("mongodb",), ("console",)], 0, 15),
    "kill both": Kind(kill, [("api-1", "api-2"), ("consumer-1", "consumer-2")], 0, 10),
    "kill brokers": Kind(kill, [*TWO_BROKERS, *ALL_BROKERS], 2, 15),
    "stop": Kind(stop, [*BROKERS, ("mongodb",), ("console",)], 1, 15),
    "restart API": Kind(stop, APIS, 0, 5, SETTINGS["api"]),
    "restart consumer": Kind(stop, CONSUMERS, 0, 5, SETTINGS["consumer"]),
    "freeze": Kind(freeze, [*APIS, *CONSUMERS, *BROKERS, ("mongodb",)], 1, 25),
    "freeze brokers": Kind(freeze, [*TWO_BROKERS, *ALL_BROKERS], 2, 20),
    "kill worker": Kind(kill_worker, APIS, 0, 2),
    "freeze worker": Kind(freeze_worker, APIS, 1, 15),
    "reload": Kind(reload, APIS, 1, 5),
    "full disk": Kind(fill_disk, APIS, 1, 10),
    "disturb": Kind(disturb, LINKS, 1, 20, {"network": tuple(TOXICS)}),
    "disturb Kafka": Kind(disturb, LINKS_TO_KAFKA, 1, 20, {"network": tuple(TOXICS)}),
    "step clock": Kind(step_clock, CLOCKS, 1, 20, {"seconds": ("-3600", "-60", "60", "3600")}),
    "kill second exporter": Kind(kill_second_exporter, [("second-exporter",)], 0.1, 4),
}


def plan(seed: int, seconds: float) -> list[Step]:
    """The faults of a run, in order; the same seed gives the same faults. A part has one fault at a time."""
    chance = random.Random(seed)
    free_at: dict[str, float] = {}
    steps = []
    at = 3.0
    while at < seconds:
        name = chance.choice(list(KINDS))
        kind = KINDS[name]
        targets = chance.choice(kind.targets)
        hold = round(chance.uniform(kind.least, kind.most), 1)
        settings = {name: chance.choice(values) for name, values in kind.settings.items()}
        if all(free_at.get(target, 0) <= at for target in targets):
            steps.append(Step(at, name, targets, hold, settings))
            # Time for the start.
            free_at |= dict.fromkeys(targets, at + hold + 6)
        # Some longer pauses, in which consumers rejoin their group and store events.
        at = round(at + chance.uniform(1, chance.choice((5, 10, 25))), 1)
    return steps


def _parts(scene: Scene, step: Step) -> list[Part]:
    return [scene.parts[name] for name in step.targets]


def _workers(scene: Scene, step: Step) -> list[psutil.Process]:
    """The oldest worker of each API."""
    found = []
    for part in _parts(scene, step):
        assert isinstance(part.process, ApiServer)
        with contextlib.suppress(psutil.NoSuchProcess, ValueError):
            found.append(psutil.Process(min(part.process.worker_pids())))
    return found


def _fill(filler: Path) -> None:
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12):
            with contextlib.suppress(OSError):
                while file.write(bytes(size)) == size:
                    pass
