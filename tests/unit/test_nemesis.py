"""The nemesis draws the same faults for a seed, one at a time for each part, and finds wrong results."""

import os
import subprocess
import sys
import time
from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Any

from tests.clocks import Clocks
from tests.nemesis.check import compared, out_of_order
from tests.nemesis.faults import KINDS, plan
from tests.nemesis.history import History, Sent

ACCEPTED = {f"event-{number}": Sent("alice", number, connection=1 + number // 2) for number in range(4)}


def test_a_seed_draws_the_same_faults_again() -> None:
    assert plan(21, 600) == plan(21, 600) != plan(22, 600)


def test_a_longer_run_begins_with_the_faults_of_a_shorter_one() -> None:
    short = plan(21, 300)
    assert plan(21, 600)[: len(short)] == short


def test_an_hour_has_faults_of_every_kind() -> None:
    assert {step.kind for step in plan(21, 3600)} == set(KINDS)


def test_a_part_has_one_fault_at_a_time() -> None:
    for one, other in combinations(plan(21, 3600), 2):
        if set(one.targets) & set(other.targets):
            assert other.at > one.at + one.hold


def test_events_stored_as_accepted_are_no_fault() -> None:
    assert not list(compared("stored", Counter(list(ACCEPTED)), ACCEPTED))


def test_lost_duplicate_and_unknown_events_are_found() -> None:
    found = Counter({"event-1": 1, "event-2": 2, "event-3": 1, "event-9": 1})
    assert list(compared("stored", found, ACCEPTED)) == [
        "1 events are accepted and not stored: event-0",
        "1 events are stored more than once: event-2",
        "1 events are stored and never accepted: event-9",
    ]


def test_the_order_of_events_is_checked_per_connection() -> None:
    assert not list(out_of_order({"alice": [2, 0, 1, 3]}, ACCEPTED))
    (said,) = out_of_order({"alice": [0, 1, 3, 2]}, ACCEPTED)
    assert said == "alice: event 2 came after 3 of the same connection 2"


def test_an_answer_that_no_client_should_get_is_a_fault() -> None:
    history = History()
    for status in (503, 429, 500, 400):
        history.reject(status, "/v1/track", "why")
    assert history.faults == ["/v1/track was answered 500: why", "/v1/track was answered 400: why"]


def test_a_stepped_clock_is_ahead_until_it_is_set_right(tmp_path: Path) -> None:
    clocks = Clocks(tmp_path)
    answer = "import sys, time\nfor line in sys.stdin: print(time.time(), flush=True)"
    environment = {**os.environ, **clocks.environment("part")}
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
    with subprocess.Popen([sys.executable, "-c", answer], env=environment, **pipes) as process:
        asks, tells = process.stdin, process.stdout
        assert asks
        assert tells

        def ahead() -> float:
            asks.write("\n")
            return round((float(tells.readline()) - time.time()) / 60)

        found = [ahead()]
        for seconds in (3600, -60, 0):
            clocks.step("part", seconds)
            found.append(ahead())
        asks.close()
    assert found == [0, 60, -1, 0]
