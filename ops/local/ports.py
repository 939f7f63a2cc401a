"""Ports of this machine: those of the local servers, from the settings, and whether they are free."""

import errno
import os
import random
import socket
import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack

from pymongo.uri_parser import parse_uri

from common.addresses import Address
from common.errors import LocalStackError
from common.settings import LocalSettings

HOST = "127.0.0.1"


def broker_port(settings: LocalSettings) -> int:
    """The port in KAFKA_BROKERS. Raises LocalStackError unless it names one broker on this machine."""
    brokers = settings.kafka.brokers
    return _only_local("KAFKA_BROKERS", "localhost:9092", ((broker.host, broker.port) for broker in brokers))


def mongodb_port(settings: LocalSettings) -> int:
    """The port in MONGO_URI. Raises LocalStackError unless it names one server on this machine."""
    example = "mongodb://localhost:27017"
    if not settings.mongo.uri.startswith("mongodb://"):  # mongodb+srv is always elsewhere, and asks the DNS
        return _only_local("MONGO_URI", example, [])
    nodes = parse_uri(settings.mongo.uri)["nodelist"]
    return _only_local("MONGO_URI", example, ((host, port or 0) for host, port in nodes))


def _only_local(variable: str, example: str, nodes: Iterable[tuple[str, int]]) -> int:
    match list(nodes):
        case [("localhost" | "127.0.0.1", port)]:
            return port
    raise LocalStackError(
        f"{variable} points elsewhere: `make run` starts a server of its own on this machine, so it takes only one "
        f"localhost address, such as {example}. Unset it, or start the API and the consumer by themselves."
    )


def check(addresses: Mapping[str, Address]) -> None:
    """Raises LocalStackError, with other ports to put into .env, unless each variable's address can be listened on."""
    taken, other = [], dict[str, int]()
    with ExitStack() as listening:
        for variable, address in addresses.items():
            try:
                bound = address.to_bind()
                server = socket.create_server(
                    (bound.host, bound.port), family=bound.family, dualstack_ipv6=bound.host == "::"
                )
                listening.enter_context(server)
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    # error.strerror would go on about how it was tried.
                    why = "no such host" if isinstance(error, socket.gaierror) else os.strerror(error.errno or 0)
                    raise LocalStackError(
                        f"Cannot listen on {address}: {why}. Choose another address with {variable}."
                    ) from None
                taken.append(variable)
        for variable in taken:  # while the free ones of `addresses` are listened on
            following = range(addresses[variable].port + 1, 65_536)
            unused = (port for port in following if port not in other.values() and not answers(port))
            other[variable] = next(unused, free_port())
    if taken:
        *most, last = (str(addresses[variable].port) for variable in taken)
        which = f"Ports {', '.join(most)} and {last} are" if most else f"Port {last} is"
        local = {"KAFKA_BROKERS": "localhost:{}", "MONGO_URI": "mongodb://localhost:{}"}
        lines = [
            f"  {name}={local[name].format(port) if name in local else Address(addresses[name].host, port)}"
            for name, port in other.items()
        ]
        raise LocalStackError("\n".join([f"{which} in use. Put other ones into .env, such as:", *lines]))


def free_port() -> int:
    """A free port, below the range for outgoing connections, in which a port may be taken at any time."""
    while True:
        port = random.randrange(20_000, 32_768)  # noqa: S311
        if not answers(port):
            return port


def answers(port: int, host: str = HOST) -> bool:
    """Whether a process accepts connections there. Blocks for at most 1 s."""
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True


def wait_until_answers(port: int, timeout: float) -> None:
    """Blocks until a process accepts connections there. Raises LocalStackError after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not answers(port):
        if time.monotonic() > deadline:
            raise LocalStackError(f"No answer on port {port} within {timeout:g} s.")
        time.sleep(0.05)
