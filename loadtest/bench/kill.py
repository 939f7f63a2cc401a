"""Counts the events that a `kill -9` of a whole server under load loses, and those that reach Kafka twice."""

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
_PATIENCE = 20.0  # seconds for a restarted side to send the missing events


@dataclass(frozen=True, slots=True)
class Killed:
    """The numbers of events answered 202, of those among them that are not in Kafka, and of duplicates in Kafka."""

    answered: int
    lost: int
    doubled: int

    @property
    def doubled_seconds(self) -> float:
        """The duplicates as seconds of the load."""
        return self.doubled / self.answered * _SECONDS


def kill(side: Side, broker: Broker, folder: Path) -> Killed:
    """Send events for two seconds, kill the server, start it again in the same folder, and count the events in Kafka.

    Blocks for some seconds; for 20 more if events are lost.
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
    """Send single events until the server is gone; appends the ids answered 202 to `answered`."""
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
    """The number of records of each event, once no more records have arrived for a second."""
    count = -1
    while count != (count := broker.records()):
        time.sleep(1)
    return Counter(_ids(broker, first))


def _ids(broker: Broker, first: dict[int, int]) -> Iterator[str]:
    reader = KafkaReader(broker.settings, broker.settings.topic)
    for record in reader.read(first):
        yield json.loads(record.value or b"")["event_id"]
    reader.close()
