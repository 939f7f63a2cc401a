"""`python -m ops.local.server broker|mongodb`: runs one local server, and stops it after the processes that need it."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from common.errors import LocalStackError, PulseError
from common.settings import LocalSettings, load_local_settings, read_dotenv
from ops.local import kafka, mongodb, noida
from ops.local.ports import broker_port, mongodb_port

BROKERS = {"kafka": "Apache Kafka", "noida": "noida-db"}
PATIENCE = 35.0  # seconds; the API and the consumer stop within 30, and ops/local/foreground.py kills after 40


def in_use_file(data_dir: Path) -> Path:
    """The FIFO that the API and the consumer hold open for as long as they live (see the Procfile)."""
    return data_dir / "in-use"


def in_use(fifo: Path) -> bool:
    """Whether some process holds the FIFO open."""
    descriptor = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        return os.read(descriptor, 1) != b""
    except BlockingIOError:  # nothing to read, but there is still a writer
        return True
    finally:
        os.close(descriptor)


def start(command: Sequence[str]) -> subprocess.Popen[bytes]:
    """Starts a server away from our process group, whose signals are not meant for it.

    On Linux it is killed when the thread that calls this ends, however that ends.
    """
    with_us = ["setpriv", "--pdeathsig", "KILL", "--"] if shutil.which("setpriv") else []
    return subprocess.Popen([*with_us, *command], start_new_session=True)


def how(status: int) -> str:
    """The cause of a process's end, from its status, in words."""
    return f"exit code {status}" if status >= 0 else f"killed by {signal.Signals(-status).name}"


def run(name: str, command: Sequence[str], fifo: Path) -> None:
    """Runs a server until SIGTERM, then waits until the FIFO is unused (at most PATIENCE) and stops the server.

    Raises LocalStackError when the server ends by itself.
    """
    server: subprocess.Popen[bytes] | None = None
    try:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit())
        server = start(command)
        status = server.wait()
    except SystemExit:
        deadline = time.monotonic() + PATIENCE
        while in_use(fifo) and time.monotonic() < deadline:
            time.sleep(0.05)
        # None if it was just being started: it is killed when we end.
        if server is not None:
            server.terminate()
            server.wait()
        raise
    raise LocalStackError(
        f"{name} ended by itself ({how(status)}); what it said, if anything, is above. Its files are kept."
    )


def command_of(part: str, settings: LocalSettings) -> tuple[str, list[str]]:
    """Name and command of the part's server. LOCAL_BROKER is kafka or noida by now."""
    data_dir = settings.data_dir
    if part == "mongodb":
        return "SecantusDB", mongodb.command(data_dir / "mongodb", mongodb_port(settings))
    if settings.broker == "noida":
        return BROKERS["noida"], noida.command(data_dir / "noida", broker_port(settings))
    libs = kafka.jars(data_dir / "kafka" / "libs")
    return BROKERS["kafka"], kafka.prepare(data_dir / "kafka", broker_port(settings), libs)


if __name__ == "__main__":
    try:
        read_dotenv()
        settings = load_local_settings()
        run(*command_of(sys.argv[1], settings), in_use_file(settings.data_dir))
    except PulseError as error:
        sys.exit(str(error))
