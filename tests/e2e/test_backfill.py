"""A backfill stores each line of a file once, even if the command is killed and repeated."""

import gzip
import json
import sys
from pathlib import Path

from tests.servers import Pipeline, Process
from tests.waiting import eventually

LINES = 3000


def test_a_file_is_stored_once_when_the_command_is_killed_and_repeated(pipeline: Pipeline, tmp_path: Path) -> None:
    file = tmp_path / "orders.csv.gz"
    rows = [f"customer-{n % 7},2024-01-31 12:00:00,{n}" if n != 17 else "customer-3,yesterday,17" for n in range(LINES)]
    file.write_bytes(gzip.compress("\n".join(["user,at,number", *rows]).encode()))
    maps = ("--map", "customer_id=user", "--map", "timestamp=at", "--map", "properties.number:integer=number")
    command = [
        sys.executable,
        "-m",
        "ops.backfill",
        str(file),
        "--url",
        pipeline.url,
        *maps,
        "--set",
        "event_type=purchase",
    ]
    backfill = Process(command, tmp_path / "backfill.log", pipeline.environ)
    state = Path(f"{file}.backfill")
    backfill.start()
    eventually(state.exists, what="the first batch", every=0.005)
    backfill.kill()
    assert 0 < json.loads(state.read_text())["line"] <= LINES + 1
    backfill.start()
    assert backfill.child is not None
    assert backfill.child.wait(60) == 1, backfill.output()
    (refused,) = Path(f"{file}.refused.ndjson").read_text().splitlines()
    assert json.loads(refused) == {"line": 19, "errors": {"timestamp": ["at is no time."]}}
    pipeline.wait_until_stored(LINES - 1)
    assert sorted(found["properties"]["number"] for found in pipeline.documents()) == [*range(17), *range(18, LINES)]
