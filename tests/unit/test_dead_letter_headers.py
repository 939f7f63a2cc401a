"""What a dead letter's headers tell, also of a record that died before."""

from datetime import UTC, datetime

from common.dead_letter_headers import Headers, dead_letter_headers
from common.errors import InvalidEventError

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
EARLIER_LIFE: Headers = (
    ("dlq.origin", b"events-0-7"),
    ("dlq.replays", b"2"),
    ("dlq.failed.first", b"2026-11-01T00:00:00.000000Z"),
)


def of_record(*headers: tuple[str, bytes], error: Exception | None = None) -> Headers:
    return dead_letter_headers(error or InvalidEventError("no"), NOON, "events", headers=headers, offset=9)


def test_headers_that_are_not_ours_pass_untouched() -> None:
    foreign = (("trace", b"\xff"), ("trace", b""), ("dlqueue", b"1"))
    assert of_record(*foreign)[:3] == foreign


def test_the_earlier_lifes_origin_replays_and_first_failure_are_kept() -> None:
    headers = dict(of_record(*EARLIER_LIFE))
    assert {name: headers[name] for name, _ in EARLIER_LIFE} == dict(EARLIER_LIFE)


def test_nothing_of_the_earlier_life_is_doubled() -> None:
    names = [name for name, _ in of_record(*EARLIER_LIFE, *of_record())]
    assert len(names) == len(set(names))


def test_the_rest_speaks_of_the_last_life() -> None:
    headers = dict(of_record(("dlq.source.offset", b"1"), ("dlq.error.class", b"Old"), ("dlq.replayed.at", b"x")))
    assert (headers["dlq.source.offset"], headers["dlq.error.class"]) == (b"9", b"InvalidEventError")
    assert "dlq.replayed.at" not in headers


def test_a_message_that_would_not_fit_is_cut() -> None:
    assert len(dict(of_record(error=InvalidEventError("x" * 2_000_000)))["dlq.error.message"]) == 1000


def test_a_message_that_is_no_text_is_escaped() -> None:
    assert dict(of_record(error=InvalidEventError("\ud800")))["dlq.error.message"] == b"\\ud800"
