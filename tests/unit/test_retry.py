"""The pauses between attempts."""

from itertools import islice

from common.retry import Backoff


def test_pauses_double_up_to_the_maximum() -> None:
    backoff = Backoff(first=1.0, most=5.0, jitter=lambda: 0.0)
    assert list(islice(backoff.pauses(), 5)) == [1.0, 2.0, 4.0, 5.0, 5.0]


def test_jitter_shortens_a_pause_by_up_to_half() -> None:
    backoff = Backoff(first=1.0, most=5.0, jitter=lambda: 1.0)
    assert list(islice(backoff.pauses(), 3)) == [0.5, 1.0, 2.0]


def test_each_outage_starts_with_the_first_pause() -> None:
    backoff = Backoff(first=1.0, jitter=lambda: 0.0)
    list(islice(backoff.pauses(), 3))
    assert next(backoff.pauses()) == 1.0
