"""A local server runs as long as a process uses it, and its unexpected end is an error."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from common.errors import LocalStackError
from ops.local import server
from tests.waiting import eventually

WATCHED = """
import sys
from pathlib import Path
from ops.local import server
server.run("it", ["sh", "-c", f"touch {sys.argv[2]}; exec sleep 60"], Path(sys.argv[1]))
"""


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    os.mkfifo(tmp_path / "in-use")
    return tmp_path / "in-use"


@pytest.fixture(autouse=True)
def _own_sigterm() -> Iterator[None]:
    """Restore the test process's handler of SIGTERM."""
    handler = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, handler)


@contextmanager
def held(fifo: Path) -> Iterator[None]:
    """Hold the FIFO open, as `9<>` in the Procfile does."""
    descriptor = os.open(fifo, os.O_RDWR)
    yield
    os.close(descriptor)


def stopping(fifo: Path) -> subprocess.Popen[bytes]:
    """A running server that has just received a SIGTERM."""
    runs = fifo.with_name("runs")
    watcher = subprocess.Popen([sys.executable, "-c", WATCHED, fifo, runs])
    eventually(runs.exists)
    watcher.terminate()
    return watcher


def test_it_is_in_use_while_a_process_holds_it(fifo: Path) -> None:
    with held(fifo):
        assert server.in_use(fifo)


def test_it_is_not_in_use_after_the_last_process_has_closed_it(fifo: Path) -> None:
    with held(fifo):
        pass
    assert not server.in_use(fifo)


def test_an_unused_server_stops_at_once(fifo: Path) -> None:
    assert stopping(fifo).wait(timeout=2) == 0


def test_a_server_stops_after_the_last_process_that_uses_it(fifo: Path) -> None:
    with held(fifo):
        watcher = stopping(fifo)
        with pytest.raises(subprocess.TimeoutExpired):
            watcher.wait(timeout=0.5)
    assert watcher.wait(timeout=2) == 0


def test_a_server_that_ends_by_itself_is_an_error_with_its_exit_code(fifo: Path) -> None:
    with pytest.raises(LocalStackError, match=r"Kafka ended by itself \(exit code 3\)"):
        server.run("Kafka", ["sh", "-c", "exit 3"], fifo)


def test_a_server_that_is_killed_is_an_error_with_the_signals_name(fifo: Path) -> None:
    with pytest.raises(LocalStackError, match=r"Kafka ended by itself \(killed by SIGKILL\)"):
        server.run("Kafka", ["sh", "-c", "kill -9 $$"], fifo)
