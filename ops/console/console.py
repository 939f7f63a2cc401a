"""Combines the console's parts: the followers, the queries each second, and the state of all processes."""

import contextlib
import time
from collections.abc import Callable
from typing import Any

from pymongo.errors import PyMongoError

from common import kafka
from common.errors import PulseError
from common.settings import ConsoleSettings
from common.threads import start_thread
from ops.console.figures import Figures
from ops.console.follower import Follower
from ops.console.letters import Letters
from ops.console.live import MOST_EVENTS, Live
from ops.console.refused import MOST_REFUSED, Refused
from ops.console.search import Search
from ops.console.store import Store, explained

_LOOK_SECONDS = 1.0
_MOST_LOOKED_UP = 500
# Per partition: older records are counted, not shown.
_MOST_AHEAD = 300
_MUCH_LAG = 10_000
_MUCH_UNSENT = 1000
_LONG_UNSENT_SECONDS = 5.0


class Console:
    """The parts. Nothing runs before `start`."""

    def __init__(self, settings: ConsoleSettings) -> None:
        self._settings = settings
        self.live = Live()
        self.store = Store(settings.mongo)
        self.figures = Figures(settings.api_urls, settings.consumer_urls)
        self.refused = Refused(settings.public_api_url, show_bodies=settings.show_bodies)
        self.letters = Letters(settings.kafka)
        self.search = Search(settings.kafka, self.live, self.store, self.letters, self.refused)
        self._events = Follower(
            settings.kafka,
            settings.kafka.topic,
            self.live.take,
            last=MOST_EVENTS // 10,
            most_ahead=_MOST_AHEAD,
            on_skip=self.live.skipped,
        )
        self._dead = Follower(settings.kafka, settings.kafka.dlq_topic, self._take_letters, last=100)
        topic = settings.kafka.refused_topic
        self._refusals = Follower(settings.kafka, topic, self.refused.take, last=MOST_REFUSED) if topic else None
        self._letters_waiting = 0
        self._kafka_problem: str | None = None
        self._mongodb_problem: str | None = None

    def start(self, alive: Callable[[], bool]) -> None:
        """Start following and polling. `alive`: whether streams to viewers continue."""
        self.live.alive = alive
        for follower in filter(None, (self._events, self._dead, self._refusals)):
            follower.start()
        self.figures.start()
        start_thread("states", self._look_into_mongodb, on_death=lambda: None)
        start_thread("letters", self._count_letters, on_death=lambda: None)
        start_thread("reaches Kafka", self._look_for_kafka, on_death=lambda: None)

    def flow(self) -> dict[str, Any]:
        """The boxes, and the problems with their runbooks."""
        self.figures.watch()
        boxes = self.figures.flow()
        boxes["dead_letters"]["waiting"] = self._letters_waiting
        boxes["refused"]["lately"] = self.refused.count
        return {**boxes, "problems": self._problems(boxes)}

    def problem_of_refused(self) -> str | None:
        """Why refused events cannot be shown, if so."""
        return self._refusals.problem if self._refusals else "KAFKA_REFUSED_TOPIC is empty: nothing is kept."

    def _take_letters(self, records: list[kafka.ReceivedRecord]) -> None:
        self.live.take_letters(records)
        self.letters.take(records)

    def _problems(self, boxes: dict[str, dict[str, Any]]) -> list[dict[str, str]]:
        """By box, a line that explains why the numbers differ, or why they are old."""
        found: list[dict[str, str]] = []

        def say(box: str, text: str, runbook: str, level: str = "bad") -> None:
            found.append({"box": box, "level": level, "text": text, "runbook": f"/runbook/{runbook}"})

        of_processes = self.figures.problems()
        for problem in of_processes["API"]:
            say("accepted", f"The API's figures are old: {problem}", "api-down")
        for problem in of_processes["consumer"]:
            say("stored", f"The consumer's figures are old: {problem}", "consumer-down")
        if set_aside := round(self.figures.value("pulse_api_journal_set_aside_events")):
            text = f"{_times(set_aside, 'event lies', 'events lie')} in a journal set aside."
            say("accepted", text, "journal-set-aside", "warn")
        if in_the_way := self._in_the_way_to_kafka(boxes):
            say("in_kafka", *in_the_way)
        unstored = _held(boxes["in_kafka"]["waiting"], "in Kafka")
        if self._mongodb_problem:
            say("stored", f"{self._mongodb_problem} {unstored}", "mongodb-away")
        elif boxes["in_kafka"]["waiting"] > _MUCH_LAG:
            say("stored", f"The consumer is behind. {unstored}", "lag-high", "warn")
        if waiting := boxes["dead_letters"]["waiting"]:
            text = f"{_times(waiting, 'letter waits', 'letters wait')} for review."
            say("dead_letters", text, "dead-letters-arrive", "warn")
        return found

    def _in_the_way_to_kafka(self, boxes: dict[str, dict[str, Any]]) -> tuple[str, str] | None:
        """The problem, and its runbook."""
        unsent = _held(boxes["accepted"]["waiting"], "in the journal")
        if self._kafka_problem:
            return f"{self._kafka_problem} {unsent}", "events-unsent"
        if self._events.problem:
            return self._events.problem, "topics-that-exist"
        oldest = self.figures.oldest("pulse_api_oldest_unsent_timestamp_seconds")
        if oldest and (waited := time.time() - oldest) > _LONG_UNSENT_SECONDS:
            return f"Kafka does not accept events: the oldest has waited {waited:.0f} s. {unsent}", "events-unsent"
        if (
            boxes["accepted"]["waiting"] > _MUCH_UNSENT
            and boxes["in_kafka"]["per_second"] < boxes["accepted"]["per_second"] / 2
        ):
            return f"More is accepted than gets into Kafka. {unsent}", "events-unsent"
        return None

    def _count_letters(self) -> None:
        while True:
            began = time.monotonic()
            with contextlib.suppress(PulseError, kafka.KafkaError, OSError):
                # Without Kafka the number stays unchanged.
                self._letters_waiting = self.letters.waiting()
            # Reading a long topic takes time, so do it rarely.
            time.sleep(max(_LOOK_SECONDS, 10 * (time.monotonic() - began)))

    def _look_into_mongodb(self) -> None:
        while True:
            began = time.monotonic()
            try:
                ids = self.live.waiting_ids(_MOST_LOOKED_UP)
                if ids:
                    self.live.stored(self.store.stored(ids))
                else:
                    self.store.ping()
            except PyMongoError as error:
                self._mongodb_problem = explained(error)
            else:
                self._mongodb_problem = None
            time.sleep(max(0.1, _LOOK_SECONDS - (time.monotonic() - began)))

    def _look_for_kafka(self) -> None:
        brokers = self._settings.kafka.broker_list
        while True:
            up = kafka.reachable(self._settings.kafka)
            self._kafka_problem = None if up else f"Kafka does not answer at {brokers}."
            time.sleep(_LOOK_SECONDS)


def _held(count: int, where: str) -> str:
    return f"{_times(count, 'event is', 'events are')} kept {where} in the meantime; none is lost."


def _times(count: int, one: str, more: str) -> str:
    return f"{count:,} {one if count == 1 else more}"
