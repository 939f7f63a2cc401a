"""The headers of a dead letter: why a record could not be stored, across all replays.

A letter that is sent back to its topic is a new record there. It has ORIGIN, REPLAYS and FAILED_FIRST, and keeps them
if it becomes a dead letter again.
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
"""The original record; the tool sets it when it sends a letter back."""
REPLAYS = "dlq.replays"
"""The number of times that the letter was sent back; missing: never."""

REPLAYED_AT = "dlq.replayed.at"
"""Only on a note, the record for a letter that was sent back: the time."""
REPLAYED_LETTER = "dlq.replayed.letter"
"""On a note: the letter, as partition-offset of the dead letter topic."""

_MOST_MESSAGE = 1000  # characters: the letter must fit into its topic


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
    """All headers of a record's letter: the record's own `headers`, then the error, times (UTC) and number of attempts.

    `source`: partition, offset and timestamp (milliseconds since the epoch), as far as the record had them. Dead letter
    headers of an earlier replay are kept (origin, replays, first failure) or replaced.
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
    """The headers of other programs."""
    return tuple(header for header in headers if not header[0].startswith(PREFIX))
