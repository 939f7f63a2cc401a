"""/health asks Kafka at most once per second."""

from api.health import Lately
from tests.fakes import FakeClock


def test_many_calls_ask_at_most_once_per_second() -> None:
    clock, asked = FakeClock(), []

    def ask() -> bool:
        asked.append(clock())
        return len(asked) == 1

    lately = Lately(ask, clock)
    assert [lately() for _ in range(3)] == [True, True, True]
    clock.advance(0.5)
    assert lately()
    clock.advance(0.5)
    assert not lately()
    assert len(asked) == 2
