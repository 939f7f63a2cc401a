"""The numbers of connections that the workers share."""

import os

from api.server.connection_counts import ConnectionCounts


def test_the_smallest_number_counts() -> None:
    counts = ConnectionCounts()
    counts.write(1, 5)
    counts.write(2, 3)
    assert counts.fewest() == 3


def test_a_worker_that_accepts_no_connections_does_not_count() -> None:
    counts = ConnectionCounts()
    counts.write(1, 5)
    counts.write(2, 3)
    counts.forget(2)
    assert counts.fewest() == 5


def test_without_workers_the_smallest_number_is_huge() -> None:
    assert ConnectionCounts().fewest() > 1_000_000


def test_a_worker_number_beyond_the_table_has_a_place() -> None:
    counts = ConnectionCounts()
    counts.write(1, 5)
    counts.write(1000, 3)
    assert counts.fewest() == 3


def test_other_processes_see_the_numbers() -> None:
    counts = ConnectionCounts()
    if (child := os.fork()) == 0:
        counts.write(7, 4)
        os._exit(0)
    os.waitpid(child, 0)
    assert counts.fewest() == 4
