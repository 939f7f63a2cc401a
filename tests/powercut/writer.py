"""Uses a journal as a worker does, for a recording: `python -m tests.powercut.writer FOLDER SYNC SEED N`.

It accepts N requests of numbered events, some together in one commit; the broker is unavailable at times. It writes a
line for each step into the file NOTES, so the recording has the steps in order.
"""

import json
import os
import random
import sys
from pathlib import Path

from api.journal.folders import claim_own, open_journal

NOTES = "notes"


def numbered(number: int) -> bytes:
    """The event with this number. Many events have the same length, so a part of one would fit into another."""
    length = (20, 20, 20, 20, 150, 700)[number // 1000 % 6]
    event = {
        "event_id": f"event-{number:07}",
        "event_type": "click",
        "customer_id": f"customer-{number:07}",
        "timestamp": "2026-01-31T12:00:00.000000Z",
        "received_at": "2026-01-31T12:00:00.000000Z",
        "properties": {"text": f"{number:07}" * length},
    }
    return json.dumps(event, separators=(",", ":")).encode()


def main(folder: Path, sync: str, seed: int, requests: int) -> None:
    """Run to the end, which takes seconds."""
    chance = random.Random(seed)
    notes = os.open(folder / NOTES, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def note(**what: list[int]) -> None:
        os.write(notes, json.dumps(what).encode() + b"\n")

    claim = claim_own(folder / "journal")
    journal = open_journal(claim.folder, max_bytes=64 * 1024 * 1024, sync=sync == "full")
    number = read_to = 0
    broker_away = False
    while requests > 0:
        added: list[int] = []
        for _ in range(chance.choice([1, 1, 1, 4])):
            size = chance.choice([1, 1, 1, 2, 10, 100])
            journal.add([numbered(number + offset) for offset in range(size)])
            added += range(number, number + size)
            number += size
            requests -= 1
        note(coming=added)
        journal.commit()
        note(answered=added)
        broker_away = chance.random() < (0.98 if broker_away else 0.01)
        if not broker_away and chance.random() < 0.3:
            values, position = journal.read(read_to, chance.choice([1, 20, 2000]))
            if values:
                numbers = [int(json.loads(value)["event_id"].removeprefix("event-")) for value in values]
                note(sent=numbers)
                journal.acknowledge(position, len(values))
                note(deleted=numbers)
                read_to = position


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
