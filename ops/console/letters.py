"""Dead letters for the page, with the code of `consumer.dlq`: lists, shows and replays them, one replay at a time."""

import json
import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from common.errors import PulseError
from common.events import format_timestamp, parse_timestamp
from common.kafka import KafkaReader, KafkaSender, ReceivedRecord, RecordReader, RecordSender
from common.settings import KafkaSettings
from common.threads import start_thread
from consumer.dlq import replay as replaying
from consumer.dlq.letters import Filter, Letter, LetterBox
from consumer.dlq.views import as_json
from ops.console.live import iso

MOST_SHOWN = 200
MAX_REPLAYS = 3
"""Letters sent back this often are skipped, as by the command, unless the request says otherwise."""

logger = logging.getLogger(__name__)


class WrongFilterError(PulseError):
    """A filter of a request is invalid."""


class ReplayRunsError(PulseError):
    """A replay is already running."""


@dataclass(slots=True)
class Progress:
    """The progress of a replay. `state`: idle, running, stopping, done, stopped or failed."""

    state: str = "idle"
    letters: int = 0
    sent: int = 0
    failed: int = 0
    problem: str | None = None
    started_at: str | None = None
    ended_at: str | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """The letters that a request selects."""

    wanted: Filter
    limit: int | None
    max_replays: int


@dataclass(slots=True)
class Plan:
    """The letters that a replay would send, by topic, and the number that it would skip as sent back too often."""

    letters: list[Letter] = field(default_factory=list)
    stay: int = 0

    def answer(self) -> dict[str, Any]:
        topics = Counter(letter.topic for letter in self.letters)
        return {"state": "dry_run", "letters": len(self.letters), "topics": topics, "stay": self.stay}


class Letters:
    """The dead letter topic. Its methods block as reading does; raise PulseError and KafkaError. Thread-safe."""

    def __init__(
        self,
        settings: KafkaSettings,
        open_reader: Callable[[], RecordReader] | None = None,
        open_sender: Callable[[str], RecordSender] | None = None,
    ) -> None:
        """`open_reader` and `open_sender` replace Kafka's in tests."""
        self._settings = settings
        self._open_reader = open_reader or (lambda: KafkaReader(settings, settings.dlq_topic))
        self._open_sender = open_sender or (lambda topic: KafkaSender(settings, topic))
        self._lock = threading.Lock()
        self._known: list[Letter] | None = None
        self._changes = 0
        self._progress = Progress()
        self._stopping = threading.Event()

    # ── Reading ──

    def take(self, records: list[ReceivedRecord]) -> None:
        """The topic has new records: discard the cached letters."""
        del records
        self._forget()

    def waiting(self) -> int:
        """The number of waiting letters."""
        return sum(letter.replayed_at is None for letter in self._all())

    def answer(self, wanted: Filter, *, with_replayed: bool) -> dict[str, Any]:
        """The number of matching letters, their reasons, and the newest ones, without their values."""
        known = [letter for letter in self._all() if with_replayed or letter.replayed_at is None]
        letters = [letter for letter in known if wanted.matches(letter)]
        reasons = Counter(letter.reason for letter in letters)
        return {
            "count": len(letters),
            "waiting": self.waiting(),
            "reasons": [{"reason": reason, "count": count} for reason, count in reasons.most_common()],
            "event_types": sorted({letter.event_type for letter in known if letter.event_type}),
            "letters": [row(letter) for letter in reversed(letters[-MOST_SHOWN:])],
        }

    def whole(self, name: str, *, show_bodies: bool) -> dict[str, Any] | None:
        """One complete letter; None if there is none with this name."""
        with self._box() as box:
            found = box.get(name)
        if found is None:
            return None
        letter: dict[str, Any] = json.loads(as_json(*found))
        if not show_bodies:
            letter |= {"value": None, "value_base64": None, "hidden": True}
        return letter

    def find(self, wanted: str) -> list[dict[str, Any]]:
        """The newest letters with this key, or with this JSON string in their value."""
        text = json.dumps(wanted, ensure_ascii=False).encode(errors="surrogatepass")
        places = set()

        def look(records: Iterator[ReceivedRecord]) -> Iterator[ReceivedRecord]:
            for record in records:
                if record.key == wanted.encode(errors="surrogatepass") or text in (record.value or b""):
                    places.add((record.partition, record.offset))
                yield record

        with closing(self._open_reader()) as reader:
            box = LetterBox(reader, self._settings.dlq_topic, self._settings.topic, watched=look)
            letters = box.find(Filter(), with_replayed=True)
        return [row(letter) for letter in reversed(letters) if (letter.partition, letter.offset) in places][:MOST_SHOWN]

    # ── Replay ──

    def plan(self, choice: Choice) -> Plan:
        """The result that a replay would have now."""
        with self._box() as box:
            return _plan(box, choice)

    def replay(self, choice: Choice, who: str) -> Progress:
        """Start a replay; returns its progress. Raises ReplayRunsError. `who`: for the log."""
        with self._lock:
            if self._progress.state in {"running", "stopping"}:
                raise ReplayRunsError("A replay is running: wait for its end, or stop it.")
            self._stopping.clear()
            self._progress = Progress("running", started_at=_now())
        start_thread("replay", lambda: self._run(choice, who), self._died)
        return self._progress

    def progress(self) -> dict[str, Any]:
        """The progress of the last replay."""
        return asdict(self._progress)

    def stop(self) -> dict[str, Any]:
        """Stop after the current chunk."""
        self._stopping.set()
        with self._lock:
            if self._progress.state == "running":
                self._progress.state = "stopping"
        return self.progress()

    def _run(self, choice: Choice, who: str) -> None:
        progress = self._progress
        try:
            with self._box() as box, closing(replaying.Replayer(box.topic, self._open_sender)) as replayer:
                letters = _plan(box, choice).letters
                progress.letters = len(letters)
                logger.warning("a replay of dead letters begins", extra={"who": who, "letters": len(letters)})
                outcome = replaying.replay(
                    box.fetch(letters),
                    replayer,
                    keep_going=False,
                    stopping=self._stopping.is_set,
                    on_progress=lambda more: setattr(progress, "sent", progress.sent + more),
                )
            progress.sent, progress.failed = outcome.sent, len(outcome.failed)
            problem = outcome.problem or (outcome.failed[0].error if outcome.failed else None)
            progress.problem = None if problem is None else str(problem) or repr(problem)
            stopped = self._stopping.is_set() and outcome.sent < len(letters)
            progress.state = "failed" if problem else "stopped" if stopped else "done"
        except Exception as error:  # noqa: BLE001, the viewer must see any error
            progress.problem, progress.state = str(error) or repr(error), "failed"
        finally:
            progress.ended_at = _now()
            self._forget()
            told = {"who": who, "sent": progress.sent, "failed": progress.failed, "problem": progress.problem}
            logger.warning("a replay of dead letters ends", extra=told)

    def _died(self) -> None:
        self._progress.state, self._progress.problem = "failed", "the console's thread died: its log says why"

    def _forget(self) -> None:
        with self._lock:
            self._known = None
            self._changes += 1

    def _all(self) -> list[Letter]:
        with self._lock:
            known, changes = self._known, self._changes
        if known is None:
            with self._box() as box:
                known = box.find(Filter(), with_replayed=True)
            with self._lock:
                if changes == self._changes:
                    self._known = known
        return known

    @contextmanager
    def _box(self) -> Iterator[LetterBox]:
        with closing(self._open_reader()) as reader:
            yield LetterBox(reader, self._settings.dlq_topic, self._settings.topic)


def choice_of(sent: Mapping[str, Any]) -> Choice:
    """The letters that a request's filters select. Raises WrongFilterError.

    `reason`, `key` and `event_type` are texts or lists of them, `since` and `until` times, `limit` and `max_replays`
    numbers from 1.
    """
    unknown = sent.keys() - {"reason", "key", "event_type", "since", "until", "limit", "max_replays", "dry_run"}
    if unknown:
        raise WrongFilterError(f"{min(unknown)} is no filter: give reason, key, event_type, since, until or limit.")
    keys = tuple(key.encode(errors="surrogatepass") for key in _texts(sent, "key"))
    wanted = Filter(
        _texts(sent, "reason"), keys, _texts(sent, "event_type"), _moment(sent, "since"), _moment(sent, "until")
    )
    return Choice(wanted, _number(sent, "limit"), _number(sent, "max_replays") or MAX_REPLAYS)


def row(letter: Letter) -> dict[str, Any]:
    """A letter in the page's list."""
    return {
        "letter": letter.place,
        "origin": letter.origin,
        "time": iso(letter.failed_at),
        "reason": letter.reason,
        "topic": letter.topic,
        "partition": letter.source_partition,
        "offset": letter.source_offset,
        "key": None if letter.key is None else letter.key.decode(errors="backslashreplace"),
        "event_type": letter.event_type,
        "attempts": letter.attempts,
        "replays": letter.replays,
        "replayed_at": iso(letter.replayed_at),
    }


def _plan(box: LetterBox, choice: Choice) -> Plan:
    found = box.find(choice.wanted)
    letters = [letter for letter in found if letter.replays < choice.max_replays]
    return Plan(letters[: choice.limit], len(found) - len(letters))


def _texts(sent: Mapping[str, Any], name: str) -> tuple[str, ...]:
    value = sent.get(name)
    values = value if isinstance(value, list) else [] if value in (None, "") else [value]
    if not all(isinstance(each, str) for each in values):
        raise WrongFilterError(f"{name} has to be a text, or a list of texts.")
    return tuple(values)


def _moment(sent: Mapping[str, Any], name: str) -> datetime | None:
    value = sent.get(name)
    if value in (None, ""):
        return None
    try:
        return parse_timestamp(value)
    except (TypeError, ValueError):
        raise WrongFilterError(f"{name} has to be a time such as 2026-01-31T12:00:00Z.") from None


def _number(sent: Mapping[str, Any], name: str) -> int | None:
    value = sent.get(name)
    if value in (None, ""):
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise WrongFilterError(f"{name} has to be a whole number from 1.")
    return value


def _now() -> str:
    return format_timestamp(datetime.now(UTC))
