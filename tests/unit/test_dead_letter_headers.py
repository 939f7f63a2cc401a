"""The headers of a dead letter, also of a record that was a dead letter before."""

from datetime import UTC, datetime

from common.dead_letter_headers import Headers, dead_letter_headers
from common.errors import InvalidEventError

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
EARLIER_LETTER: Headers = (
    ("dlq.origin", b"events-0-7"),
    ("dlq.replays", b"2"),
    ("dlq.failed.first", b"2026-11-01T00:00:00.000000Z"),
)


def of_record(*headers: tuple[str, bytes], error: Exception | None = None) -> Headers:
    return dead_letter_headers(error or InvalidEventError("no"), NOON, "events", headers=headers, offset=9)


def test_foreign_headers_stay_unchanged() -> None:
    foreign = (("trace", b"\xff"), ("trace", b""), ("dlqueue", b"1"))
    assert of_record(*foreign)[:3] == foreign


def test_the_origin_replays_and_first_failure_of_the_earlier_letter_are_kept() -> None:
    headers = dict(of_record(*EARLIER_LETTER))
    assert {name: headers[name] for name, _ in EARLIER_LETTER} == dict(EARLIER_LETTER)


def test_no_header_of_the_earlier_letter_appears_twice() -> None:
    names = [name for name, _ in of_record(*EARLIER_LETTER, *of_record())]
    assert len(names) == len(set(names))


def test_the_other_headers_describe_the_last_failure() -> None:
    headers = dict(of_record(("dlq.source.offset", b"1"), ("dlq.error.class", b"Old"), ("dlq.replayed.at", b"x")))
    assert (headers["dlq.source.offset"], headers["dlq.error.class"]) == (b"9", b"InvalidEventError")
    assert "dlq.replayed.at" not in headers


def test_a_message_that_does_not_fit_is_cut() -> None:
    assert len(dict(of_record(error=InvalidEventError("x" * 2_000_000)))["dlq.error.message"]) == 1000


def test_a_message_that_is_no_text_is_escaped() -> None:
    assert dict(of_record(error=InvalidEventError("\ud800")))["dlq.error.message"] == b"\\ud800"
