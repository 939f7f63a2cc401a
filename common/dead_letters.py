"""The headers of a dead letter: what is known about why a record was given up."""

from datetime import datetime

from common.events import format_timestamp

Headers = tuple[tuple[str, bytes], ...]


def dead_letter_headers(
    error: Exception,
    failed_at: datetime,
    source_topic: str,
    *,
    attempts: int = 1,
    first_failed_at: datetime | None = None,
    **source: int,
) -> Headers:
    """Headers naming the error, when (UTC) and after how many attempts it struck, and the record's source.

    `source`: partition, offset and timestamp (milliseconds since the epoch), as far as the record had them.
    """
    why: dict[str, str | int] = {
        "dlq.error.class": type(error).__name__,
        "dlq.error.message": str(error),
        "dlq.source.topic": source_topic,
        **{f"dlq.source.{name}": value for name, value in source.items()},
        "dlq.attempts": attempts,
        "dlq.failed.first": format_timestamp(first_failed_at or failed_at),
        "dlq.failed.last": format_timestamp(failed_at),
    }
    return tuple((name, str(value).encode()) for name, value in why.items())
