"""The headers of a dead letter: what is known about why a record was given up, over all its lives.

A letter that is sent back to its topic is a new record there. It carries ORIGIN, REPLAYS and FAILED_FIRST, and so does
the letter it becomes if it dies again.
"""

from datetime import datetime

from common.events import format_timestamp

Headers = tuple[tuple[str, bytes], ...]

PREFIX = "dlq."
ERROR_CLASS = "dlq.error.class"
ERROR_MESSAGE = "dlq.error.message"
SOURCE_TOPIC = "dlq.source.topic"
SOURCE_PARTITION = "dlq.source.partition"
SOURCE_OFFSET = "dlq.source.offset"
SOURCE_TIMESTAMP = "dlq.source.timestamp"
ATTEMPTS = "dlq.attempts"
FAILED_FIRST = "dlq.failed.first"
FAILED_LAST = "dlq.failed.last"

ORIGIN = "dlq.origin"
"""Which record died first; the tool sets it when it sends a letter back."""
REPLAYS = "dlq.replays"
"""How often the letter was sent back; missing: never."""

REPLAYED_AT = "dlq.replayed.at"
"""Only on a note, the record that says that a letter was sent back: when."""
REPLAYED_LETTER = "dlq.replayed.letter"
"""On a note: which letter, as partition-offset of the dead letter topic."""

_MOST_MESSAGE = 1000  # characters: the letter has to fit where the record fitted


def dead_letter_headers(
    error: Exception,
    failed_at: datetime,
    source_topic: str,
    *,
    headers: Headers = (),
    attempts: int = 1,
    first_failed_at: datetime | None = None,
    **source: int,
) -> Headers:
    """All headers of a record's letter: the record's own `headers`, then why, when (UTC), after how many attempts.

    `source`: partition, offset and timestamp (milliseconds since the epoch), as far as the record had them. What an
    earlier life left in the record's headers is carried on (origin, replays, first failure) or replaced.
    """
    why: dict[str, str | int] = {
        ERROR_CLASS: type(error).__name__,
        ERROR_MESSAGE: str(error)[:_MOST_MESSAGE],
        SOURCE_TOPIC: source_topic,
        **{f"dlq.source.{name}": value for name, value in source.items()},
        ATTEMPTS: attempts,
        FAILED_FIRST: format_timestamp(first_failed_at or failed_at),
        FAILED_LAST: format_timestamp(failed_at),
    }
    ours = {name: str(value).encode(errors="backslashreplace") for name, value in why.items()}
    earlier = dict(headers)
    ours |= {name: earlier[name] for name in (ORIGIN, REPLAYS, FAILED_FIRST) if name in earlier}
    return foreign(headers) + tuple(ours.items())


def foreign(headers: Headers) -> Headers:
    """The headers that are not ours."""
    return tuple(header for header in headers if not header[0].startswith(PREFIX))
