"""What the workers know of each other's connections."""

import os

from api.server.connection_counts import ConnectionCounts


def test_the_worker_with_fewest_counts() -> None:
    counts = ConnectionCounts()
    counts.write(1, 5)
    counts.write(2, 3)
    assert counts.fewest() == 3


def test_a_worker_that_takes_none_does_not_count() -> None:
    counts = ConnectionCounts()
    counts.write(1, 5)
    counts.write(2, 3)
    counts.forget(2)
    assert counts.fewest() == 5


def test_without_workers_nobody_has_fewer() -> None:
    assert ConnectionCounts().fewest() > 1_000_000


def test_a_worker_that_replaces_a_thousandth_has_its_place() -> None:
    counts = ConnectionCounts()
    counts.write(1, 5)
    counts.write(1000, 3)
    assert counts.fewest() == 3


def test_other_processes_see_them() -> None:
    counts = ConnectionCounts()
    if (child := os.fork()) == 0:
        counts.write(7, 4)
        os._exit(0)
    os.waitpid(child, 0)
    assert counts.fewest() == 4
