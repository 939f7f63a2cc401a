"""What a `kill -9` of a whole server under load loses, and what it brings to Kafka twice."""

import itertools
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from common.event_json import encode
from common.kafka import KafkaReader
from loadtest.bench import events
from loadtest.bench.load import answer, request
from loadtest.bench.rivals import Side
from loadtest.bench.sides import Broker

_CLIENTS = 20
_SECONDS = 2.0
_PATIENCE = 20.0  # seconds that a side started again may take to bring what is missing


@dataclass(frozen=True, slots=True)
class Killed:
    """How many events were answered with 202, how many of those are not in Kafka, how many are there once too often."""

    answered: int
    lost: int
    doubled: int

    @property
    def doubled_seconds(self) -> float:
        """Of the load: how long it took to bring as many."""
        return self.doubled / self.answered * _SECONDS


def kill(side: Side, broker: Broker, folder: Path) -> Killed:
    """Loads it for two seconds, kills it, starts it again in the same folder, and looks what comes to Kafka.

    Blocks for some seconds; for 20 more where events are lost.
    """
    before = _ends(broker)
    answered: list[str] = []
    with side.start(broker, folder) as server:
        numbers = itertools.count()
        run = time.monotonic_ns()
        clients = [threading.Thread(target=_send, args=(server.port, run, numbers, answered)) for _ in range(_CLIENTS)]
        for client in clients:
            client.start()
        time.sleep(_SECONDS)
        server.kill()
        for client in clients:
            client.join()
    with side.start(broker, folder):
        deadline = time.monotonic() + _PATIENCE
        in_kafka = _settled(broker, before)
        while not in_kafka.keys() >= set(answered) and time.monotonic() < deadline:
            in_kafka = _settled(broker, before)
    lost = set(answered) - in_kafka.keys()
    return Killed(len(answered), len(lost), in_kafka.total() - len(in_kafka))


def _send(port: int, run: int, numbers: Iterator[int], answered: list[str]) -> None:
    """Single events, until the server is gone; what is answered with 202 is noted."""
    shoppers = events.shoppers()
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=30) as sock:
            for number in numbers:
                event_id = f"{run}-{number}"
                event = shoppers[number % len(shoppers)] | {"event_id": event_id}
                sock.sendall(request("/api/v1/track", encode(event)))
                if answer(sock) == 202:
                    answered.append(event_id)
    except OSError:
        return


def _ends(broker: Broker) -> dict[int, int]:
    reader = KafkaReader(broker.settings, broker.settings.topic)
    reader.close()
    return reader.ends


def _settled(broker: Broker, first: dict[int, int]) -> Counter[str]:
    """How often each event is there, once no more came for a second."""
    count = -1
    while count != (count := broker.records()):
        time.sleep(1)
    return Counter(_ids(broker, first))


def _ids(broker: Broker, first: dict[int, int]) -> Iterator[str]:
    reader = KafkaReader(broker.settings, broker.settings.topic)
    for record in reader.read(first):
        yield json.loads(record.value or b"")["event_id"]
    reader.close()
