"""A steady load, to check that memory stays constant and every event arrives."""

import time

from tqdm import tqdm

from loadtest.bench import events
from loadtest.bench.load import drive
from loadtest.bench.report import Row, Target
from loadtest.bench.sides import OURS, Broker, gunicorn

_RATE = 2_000
_STEP_SECONDS = 10


def measure(broker: Broker, seconds: int) -> list[Row]:
    """Send 2,000 single events per second, and measure memory every ten seconds."""
    memory: list[float] = []
    accepted = 0
    with gunicorn(OURS, broker) as server:
        for _ in tqdm(range(seconds // _STEP_SECONDS), desc="soak", unit=" steps of 10 s"):
            load = drive(server.port, events.batches(1, _RATE * _STEP_SECONDS), 20, _RATE)
            accepted += load.answers[202]
            memory.append(server.megabytes)
        time.sleep(1)
        lost = accepted - broker.records()
    half = len(memory) // 2
    growth = max(memory[half:]) / max(memory[:half])
    return [
        Row(f"soak of {seconds} s: memory of an API worker", "MB", memory, Target(at_most=120)),
        Row("soak: memory of the second half against the first", "ratio", [growth], Target(at_most=1.05)),
        Row(f"soak: of {accepted:,} events, not in Kafka", "events", [lost], Target(at_most=0)),
    ]
