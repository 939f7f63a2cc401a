"""`make run`: checks this machine, downloads missing parts, and hands over to honcho."""

import os
import shutil
import signal
import sys
from collections import defaultdict
from functools import partial
from pathlib import Path

from common.addresses import Address
from common.errors import LocalStackError, PulseError
from common.settings import (
    LocalBroker,
    LocalSettings,
    load_api_settings,
    load_console_settings,
    load_consumer_settings,
    load_local_settings,
    load_topic_settings,
    read_dotenv,
)
from ops.local import foreground, kafka, noida, ports
from ops.local.server import BROKERS, how, in_use, in_use_file

LEAST_FREE_SPACE = 1 << 30  # bytes
PROCFILE = Path(__file__).parent / "Procfile"

say = partial(print, flush=True)


def prepare() -> None:
    """Leaves in the environment what the processes of the Procfile need. Raises PulseError if they could not run.

    Blocks for as long as Maven needs on the first run.
    """
    read_dotenv()
    os.environ.setdefault("LOG_FORMAT", "text")  # here people read the log
    load_api_settings()
    load_consumer_settings()
    load_console_settings()
    load_topic_settings()
    settings = load_local_settings()
    if settings.kafka.security_protocol != "PLAINTEXT":
        raise LocalStackError("The broker of `make run` speaks PLAINTEXT only: unset KAFKA_SECURITY_PROTOCOL.")
    make_data_dir(settings.data_dir)
    check_ports(settings)
    (settings.data_dir / "pid").write_text(f"{os.getpid()}\n")
    os.environ["LOCAL_BROKER"] = broker = choose_broker(settings)
    warn_of_the_other_broker(settings.data_dir / "broker", broker)
    os.environ.setdefault("CONSOLE_API_URLS", settings.api_address.url)
    os.environ.setdefault("CONSOLE_CONSUMER_URLS", settings.metrics_address.url)
    os.environ.setdefault("API_JOURNAL_DIR", str(settings.data_dir / "journal"))
    os.environ["LOCAL_DATA_DIR"] = str(settings.data_dir)
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"


def check_ports(settings: LocalSettings) -> None:
    """Raises LocalStackError if some of the ports are taken, or given twice."""
    addresses = {
        "KAFKA_BROKERS": Address(ports.HOST, ports.broker_port(settings)),
        "MONGO_URI": Address(ports.HOST, ports.mongodb_port(settings)),
        "API_ADDR": settings.api_address,
        "METRICS_ADDR": settings.metrics_address,
        "CONSOLE_ADDR": settings.console_address,
    }
    users = defaultdict(list)
    for variable, address in addresses.items():
        users[address.port].append(variable)
    for port, variables in users.items():
        if len(variables) > 1:
            raise LocalStackError(f"{' and '.join(variables)} name the same port, {port}: give each its own.")
    ports.check(addresses)


def make_data_dir(data_dir: Path) -> None:
    """Makes the folder and the FIFO in it. Raises LocalStackError if it cannot be used, or is used already."""
    fifo = in_use_file(data_dir)
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        if not fifo.exists():
            os.mkfifo(fifo)
        busy = in_use(fifo)
        free = shutil.disk_usage(data_dir).free
    except OSError as error:
        raise LocalStackError(f"LOCAL_DATA_DIR={data_dir} cannot be used: {error.strerror}.") from None
    if busy:
        pid = (data_dir / "pid").read_text().strip()
        raise LocalStackError(
            f"Another `make run` (process {pid}) uses {data_dir}/: stop it with Ctrl-C there, or: kill {pid}"
        )
    if free < LEAST_FREE_SPACE:
        raise LocalStackError(f"Only {free >> 20} MiB are free for {data_dir}: make room, 1 GiB at least.")


def choose_broker(settings: LocalSettings) -> LocalBroker:
    """Apache Kafka if available, otherwise noida-db. Raises LocalStackError if Kafka is required but unavailable."""
    why = ""
    if settings.broker != "noida":
        try:
            kafka.check_java()
            kafka.jars(settings.data_dir / "kafka" / "libs", say)
        except LocalStackError as reason:
            if settings.broker == "kafka":
                raise LocalStackError(f"{reason}\nOr use the stand-in: LOCAL_BROKER=noida") from None
            why = f" {reason}"
        else:
            return "kafka"
    say(f"{noida.LIMITS}{why}")
    return "noida"


def warn_of_the_other_broker(last: Path, broker: LocalBroker) -> None:
    """Warn if the file `last` names another broker, which may hold events; then write this broker's name to it."""
    before = last.read_text() if last.exists() else broker
    if before in BROKERS.keys() - {broker}:
        say(
            f"{last.parent}/ holds events in {BROKERS[before]} that may not be stored yet; "
            f"this run uses {BROKERS[broker]}.\nTo store them first: LOCAL_BROKER={before} make run"
        )
    last.write_text(broker)


def farewell(part: str, status: int) -> str:
    """The message about the run after this part exited first, and about the events. LOCAL_BROKER is set by now."""
    if part == "broker" and os.environ["LOCAL_BROKER"] == "noida":
        events = "noida-db may have lost the events of its last seconds."
    else:
        events = "What was accepted is kept: `make run` goes on where it was."
    return f"The {part} ended ({how(status)}), so everything was stopped. {events}"


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        prepare()
    except PulseError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit(130)
    ended = foreground.run(PROCFILE)
    if ended:
        sys.exit(farewell(*ended))
