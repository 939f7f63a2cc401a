"""The lines about the local stack while it becomes ready."""

from ops.local.ready import HINT, LATE, SLOW, report


def said(*, tries: dict[str, int]) -> list[str]:
    """The lines for parts that are ready at their n-th check, with a second between checks."""
    checks = {name: iter([False] * (n - 1) + [True]).__next__ for name, n in tries.items()}
    seconds = [0.0]

    def sleep(_: float) -> None:
        seconds[0] += 1

    return list(report(checks, lambda: seconds[0], sleep))


def test_each_part_is_named_with_its_time_when_it_is_ready() -> None:
    assert said(tries={"broker": 4, "API": 2}) == ["API is ready after 1.0 s", "broker is ready after 3.0 s"]


def test_late_parts_are_named_once() -> None:
    lines = said(tries={"broker": 1, "API": int(LATE) + 5})
    assert [line for line in lines if "not ready" in line] == [
        f"not ready after {LATE:g} s: API; see what it says above"
    ]


def test_slow_parts_are_named_before_they_are_late() -> None:
    lines = said(tries={"API": 1, "consumer": int(SLOW) + 5})
    assert [line for line in lines if "waiting" in line] == ["still waiting for consumer"]


def test_only_the_commands_to_try_are_indented() -> None:
    indented = [line.split()[0] for line in HINT.splitlines() if line.startswith(" ")]
    assert indented == ["curl", "make", "make"]
