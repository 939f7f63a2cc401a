"""What is asked of Kafka for /health, once a second at most."""

from api.health import Lately
from tests.fakes import FakeClock


def test_it_asks_once_a_second_however_many_want_to_know() -> None:
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
