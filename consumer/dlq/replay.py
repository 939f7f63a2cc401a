"""Sends letters back to their topics, chunk by chunk, then records that as notes in the dead letter topic.

After a kill between the two, the next replay sends the letters again: the consumer stores by event_id, so once.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NamedTuple

from common import dead_letter_headers as headers
from common.errors import DeliveryError, PulseError
from common.events import format_timestamp
from common.kafka import KafkaError, Record, RecordSender, never_takes
from consumer.dlq.letters import Letter, Mail

CHUNK_LETTERS = 500
CHUNK_BYTES = 1_000_000


class Failed(NamedTuple):
    """A letter that its topic did not acknowledge, and the error."""

    letter: Letter
    error: Exception


@dataclass(slots=True)
class Outcome:
    """The result of a replay. `problem`: the error that ended it early."""

    sent: int = 0
    failed: list[Failed] = field(default_factory=list)
    problem: Exception | None = None


def replay(
    mails: Iterable[Mail],
    replayer: "Replayer",
    *,
    keep_going: bool,
    stopping: Callable[[], bool],
    on_progress: Callable[[int], None],
) -> Outcome:
    """Send the letters back, until one fails (unless `keep_going`), or until `stopping()` between two chunks.

    `on_progress` gets the number of letters of each chunk. Blocks as reading and sending do; does not raise errors of
    the broker.
    """
    outcome = Outcome()
    try:
        for chunk in _chunks(mails):
            failed = replayer.send(chunk)
            outcome.sent += len(chunk) - len(failed)
            outcome.failed += failed
            on_progress(len(chunk))
            if stopping() or (failed and not keep_going):
                break
    except (PulseError, KafkaError) as error:
        outcome.problem = error
    return outcome


class Replayer:
    """Sends letters back. Keeps one sender per topic; `close` closes them."""

    def __init__(self, dlq_topic: str, open_sender: Callable[[str], RecordSender]) -> None:
        self._dlq_topic = dlq_topic
        self._open_sender = open_sender
        self._senders: dict[str, RecordSender] = {}
        self._given_up: dict[str, Exception] = {}

    def send(self, chunk: Iterable[Mail]) -> list[Failed]:
        """Send the letters, note the acknowledged ones, and return the others. Blocks for a few timeouts at most.

        A topic that fails for another reason than the size of a letter is not tried again. Raises DeliveryError if
        letters were sent, but not noted.
        """
        by_topic: dict[str, list[Mail]] = defaultdict(list)
        for mail in chunk:
            by_topic[mail.letter.topic].append(mail)
        failed = []
        for topic, mails in by_topic.items():
            answers = self._deliver(topic, mails)
            self._note([mail for mail, error in zip(mails, answers, strict=True) if error is None])
            failed += [
                Failed(mail.letter, error) for mail, error in zip(mails, answers, strict=True) if error is not None
            ]
        return failed

    def close(self) -> None:
        for sender in self._senders.values():
            sender.close()

    def _deliver(self, topic: str, mails: list[Mail]) -> list[Exception | None]:
        if topic in self._given_up:
            return [self._given_up[topic]] * len(mails)
        answers = self._sender(topic).send([_sent_back(mail) for mail in mails])
        if len(mails) > 1 and any(error and never_takes(error) for error in answers):
            # Kafka refuses a batch as a whole: alone it accepts all but the letter that is too large.
            answers = [
                self._deliver(topic, [mail])[0] if error else None for mail, error in zip(mails, answers, strict=True)
            ]
        for error in answers:
            if error and not never_takes(error):
                self._given_up[topic] = error
        return answers

    def _note(self, mails: list[Mail]) -> None:
        if not mails:
            return
        now = datetime.now(UTC)
        answers = self._sender(self._dlq_topic).send([_note(mail, now) for mail in mails])
        errors = [error for error in answers if error is not None]
        if errors:
            raise DeliveryError(
                f"{len(errors):,} letters were sent back, but {self._dlq_topic} refused the notes about them "
                f"({errors[0]!r}): the next replay sends them again, and they are stored once."
            )

    def _sender(self, topic: str) -> RecordSender:
        if topic not in self._senders:
            self._senders[topic] = self._open_sender(topic)
        return self._senders[topic]


def _chunks(mails: Iterable[Mail]) -> Iterator[list[Mail]]:
    """The letters in order, in chunks that are sent and noted together."""
    chunk: list[Mail] = []
    size = 0
    for mail in mails:
        chunk.append(mail)
        size += len(mail.record.value or b"")
        if len(chunk) == CHUNK_LETTERS or size >= CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _sent_back(mail: Mail) -> Record:
    first_failure = dict(mail.record.headers).get(headers.FAILED_FIRST)
    ours = {headers.FAILED_FIRST: first_failure} if first_failure else {}
    ours |= _life(mail.letter)
    return Record(mail.record.key, mail.record.value, headers.foreign(mail.record.headers) + tuple(ours.items()))


def _note(mail: Mail, now: datetime) -> Record:
    ours = {
        headers.REPLAYED_AT: format_timestamp(now).encode(),
        headers.REPLAYED_LETTER: mail.letter.place.encode(),
        **_life(mail.letter),
    }
    return Record(mail.record.key, mail.record.value, tuple(ours.items()))


def _life(letter: Letter) -> dict[str, bytes]:
    return {headers.ORIGIN: letter.origin.encode(), headers.REPLAYS: b"%d" % (letter.replays + 1)}
