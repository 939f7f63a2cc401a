"""Random faults on the whole pipeline, from a seed: each accepted event is stored once and exported once, in order.

`make nemesis` runs it longer and with other seeds.
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.nemesis.faults import plan
from tests.nemesis.run import Run
from tests.nemesis.scene import Scene
from tests.toxiproxy import Toxiproxy

MINUTES = float(os.environ.get("NEMESIS_MINUTES") or 1)
SEED = int(os.environ.get("NEMESIS_SEED") or 21)
RATE = float(os.environ.get("NEMESIS_RATE") or 50)


@pytest.fixture
def scene(kafka_libs: Path, toxiproxy: Toxiproxy, tmp_path: Path) -> Iterator[Scene]:
    with ExitStack() as closing:
        scene = Scene(kafka_libs, tmp_path, toxiproxy, closing)
        scene.start()
        yield scene


@pytest.mark.long
@pytest.mark.timeout(900 + 180 * MINUTES)
def test_accepted_events_are_stored_and_exported_once_while_the_nemesis_acts(scene: Scene) -> None:
    print(f"\nseed {SEED}, {MINUTES:g} minutes, {RATE:g} events/s; logs in {scene.folder}")  # noqa: T201, seen with -s
    run = Run(scene, plan(SEED, 60 * MINUTES), RATE, lambda line: print(line, flush=True))  # noqa: T201
    found = run.go(60 * MINUTES)
    print("\n".join(run.summary()))  # noqa: T201
    assert not found, "\n".join([f"seed {SEED}:", *found])
