"""A steady load: no event is lost, and no process or file takes more at the end than at the beginning.

`make soak` runs it for two hours at 2,000 events per second. A stub that remembers ids stands in for MongoDB, since
SecantusDB stores some 270 events per second.
"""

import contextlib
import os
import time
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.measures import Sample, grown, measure, metrics_folders, table
from tests.nemesis.clients import Sender, native, segment
from tests.nemesis.history import History, Sent
from tests.servers import KafkaServer, MongoStub, Pipeline

MINUTES = float(os.environ.get("SOAK_MINUTES") or 1)
RATE = float(os.environ.get("SOAK_RATE") or 400)
CUSTOMERS = 12
WARM_UP_MINUTES = 20
"""In shorter runs, resources may grow: caches and pools fill."""


class Counts(History):
    """A history that keeps each customer's number of accepted events instead of the events, which would fill memory."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = [0] * CUSTOMERS

    def accept(self, events: Iterable[tuple[str, Sent]], status: int, seconds: float) -> None:
        super().accept([], status, seconds)
        for _, sent in events:
            customer = int(sent.customer)
            self.numbers[customer] = max(self.numbers[customer], sent.number + 1)


class Scene:
    """A broker, the stub, and the pipeline."""

    def __init__(self, kafka: KafkaServer, mongo: MongoStub, folder: Path) -> None:
        self.pipeline = Pipeline(kafka, mongo, folder)
        self._processes = {
            "API": self.pipeline.api,
            "consumer": self.pipeline.consumer,
        }
        self._folder = folder

    def sample(self, seconds: list[float]) -> Sample:
        pids = {name: process.child.pid for name, process in self._processes.items() if process.child}
        return measure(
            pids,
            {
                "metrics files": metrics_folders(pids["API"]),
                "journal": [self._folder / "journal"],
                "logs": [process.log for process in self._processes.values()],
            },
            seconds,
        )

    def stored(self) -> int:
        with self.pipeline.events() as events:
            return events.estimated_document_count()


@pytest.fixture
def scene(kafka_libs: Path, tmp_path: Path) -> Iterator[Scene]:
    with contextlib.ExitStack() as closing:
        kafka = KafkaServer(kafka_libs, tmp_path)
        closing.callback(kafka.kill)
        kafka.start()
        mongo = MongoStub(tmp_path)
        closing.callback(mongo.kill)
        mongo.start()
        scene = Scene(kafka, mongo, tmp_path)
        closing.callback(scene.pipeline.kill)
        scene.pipeline.start()
        yield scene


@pytest.mark.long
@pytest.mark.timeout(300 + 70 * MINUTES)
def test_a_steady_load_takes_no_more_at_the_end_than_at_the_beginning(scene: Scene) -> None:
    say = partial(print, flush=True)
    say(f"\n{MINUTES:g} minutes, {RATE:g} events/s")
    counts = Counts()
    requests = (native, segment)
    senders = [
        Sender([scene.pipeline.url], f"{number}", requests[number % 2], RATE / CUSTOMERS, counts)
        for number in range(CUSTOMERS)
    ]
    for sender in senders:
        sender.start()
    samples = list(_minutes(scene, counts, say))
    for sender in senders:
        sender.stop()
    for sender in senders:
        sender.join(60)
    accepted = sum(counts.numbers)
    scene.pipeline.wait_until_stored(accepted)
    say(f"accepted {accepted:,} events, stored {scene.stored():,}; answers {dict(sorted(counts.answers.items()))}")
    say("\n".join(table(samples)))
    assert scene.stored() == accepted
    assert counts.faults == []
    assert counts.answers.keys() == {"200", "202"}
    if MINUTES >= WARM_UP_MINUTES:
        assert grown(samples) == []
    for process in (scene.pipeline.api, scene.pipeline.consumer):
        assert "Traceback" not in process.output()


def _minutes(scene: Scene, counts: Counts, say: "partial[None]") -> Iterator[Sample]:
    """A sample and a line at the end of each minute."""
    begun = time.monotonic()
    for minute in range(1, max(1, round(MINUTES)) + 1):
        time.sleep(max(0.0, begun + 60 * minute - time.monotonic()))
        sample = scene.sample(counts.take_seconds())
        say(
            f"{minute:4} min  accepted {sum(counts.numbers):,}  stored {scene.stored():,}  "
            f"p50 {sample['answers p50 ms']:.1f} ms  p99 {sample['answers p99 ms']:.1f} ms  "
            f"API {sample['API RSS MiB']:.0f} MiB  consumer {sample['consumer RSS MiB']:.0f} MiB"
        )
        yield sample
