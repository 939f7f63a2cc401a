"""The death of a thread is logged, with the stacks of all threads."""

import threading

import pytest

from common.threads import all_stacks, start_thread


def fail() -> None:
    raise RuntimeError("out of order")


def test_a_thread_that_dies_is_logged_with_its_error(caplog: pytest.LogCaptureFixture) -> None:
    start_thread("worker", fail, on_death=lambda: None).join(10)
    (record,) = caplog.records
    assert (record.levelname, record.getMessage()) == ("CRITICAL", "the thread worker died")
    assert "out of order" in str(record.exc_info)


def test_a_thread_that_dies_is_logged_with_the_stacks_of_all_threads(caplog: pytest.LogCaptureFixture) -> None:
    start_thread("worker", fail, on_death=lambda: None).join(10)
    stacks = vars(caplog.records[0])["stacks"]
    assert "thread MainThread:" in stacks
    assert "thread worker:" in stacks


def test_the_death_of_a_thread_calls_on_death(caplog: pytest.LogCaptureFixture) -> None:
    heard = threading.Event()
    start_thread("worker", fail, on_death=heard.set)
    assert heard.wait(10)


def test_a_thread_that_ends_by_itself_is_no_death(caplog: pytest.LogCaptureFixture) -> None:
    start_thread("worker", lambda: None, on_death=fail).join(10)
    assert caplog.records == []


def test_stacks_name_the_function_that_each_thread_runs() -> None:
    assert "in test_stacks_name_the_function_that_each_thread_runs" in all_stacks()
