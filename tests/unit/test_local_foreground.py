"""What becomes of the processes of `make run` when it is to stop, or is killed itself."""

import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.waiting import eventually

# As `make run` does, but that honcho loses its patience at once, and not after 5 s.
RUNS = """
import sys
from pathlib import Path
import honcho.manager
from ops.local import foreground
honcho.manager.KILL_WAIT = 0
print("ended first:", foreground.run(Path(sys.argv[1])))
"""


class Scene:
    """A process under honcho that on SIGTERM waits for the file `go` before it ends."""

    def __init__(self, folder: Path, parent: Sequence[str] = ()) -> None:
        self.go, self.went, self.log = folder / "go", folder / "went", folder / "log"
        ends = f"until [ -e {self.go} ]; do sleep 0.05; done; touch {self.went}; exit"
        procfile = folder / "Procfile"
        procfile.write_text(f"slow: trap '{ends}' TERM; touch {folder}/runs; while :; do sleep 0.05; done\n")
        with self.log.open("wb") as log:
            self.honcho = subprocess.Popen([*parent, sys.executable, "-c", RUNS, procfile], stdout=log, stderr=log)
        eventually((folder / "runs").exists)

    def ask(self) -> None:
        """Ctrl-C, and the answer to it."""
        self.honcho.send_signal(signal.SIGINT)
        eventually(lambda: "waiting for slow" in self.log.read_text())


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(tmp_path)
    yield scene
    scene.go.touch()
    scene.honcho.terminate()
    scene.honcho.wait(10)


def test_what_is_slow_to_stop_is_named_and_waited_for(scene: Scene) -> None:
    scene.ask()
    scene.go.touch()
    scene.honcho.wait(10)
    assert scene.went.exists()
    assert "ended first: None" in scene.log.read_text()


def test_the_part_that_ended_first_is_known_with_its_status(tmp_path: Path) -> None:
    (tmp_path / "Procfile").write_text("stays: exec sleep 60\nkilled: kill -9 $$\n")
    said = subprocess.run(
        [sys.executable, "-c", RUNS, tmp_path / "Procfile"], capture_output=True, text=True, timeout=20, check=True
    )
    assert "ended first: ('killed', -9)" in said.stdout


def test_what_is_ready_to_be_copied_has_nothing_before_it(tmp_path: Path) -> None:
    (tmp_path / "Procfile").write_text("ready: echo Try; echo '  curl it'\n")
    said = subprocess.run(
        [sys.executable, "-c", RUNS, tmp_path / "Procfile"], capture_output=True, text=True, timeout=20, check=True
    )
    assert "ready  | Try\n  curl it\n" in said.stdout


def test_who_asks_twice_waits_no_longer(scene: Scene) -> None:
    scene.ask()
    scene.honcho.send_signal(signal.SIGINT)
    scene.honcho.wait(10)
    assert not scene.went.exists()


def test_processes_are_told_to_stop_when_what_runs_them_is_killed(scene: Scene) -> None:
    scene.honcho.kill()
    scene.go.touch()
    eventually(scene.went.exists)


def test_processes_are_told_to_stop_when_its_parent_is_killed(tmp_path: Path) -> None:
    scene = Scene(tmp_path, parent=["sh", "-c", '"$@"; exit', "make"])
    scene.honcho.kill()
    scene.honcho.wait(10)
    scene.go.touch()
    eventually(scene.went.exists)
