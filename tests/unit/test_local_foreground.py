"""The processes of `make run` stop when it stops, and when it is killed."""

import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.waiting import eventually

# As in `make run`, but honcho waits 0 s instead of 5 s before it kills.
RUNS = """
import sys
from pathlib import Path
import honcho.manager
from ops.local import foreground
honcho.manager.KILL_WAIT = 0
print("ended first:", foreground.run(Path(sys.argv[1])))
"""


class Scene:
    """A process under honcho that ends after a SIGTERM, once the file `go` exists."""

    def __init__(self, folder: Path, parent: Sequence[str] = ()) -> None:
        self.go, self.went, self.log = folder / "go", folder / "went", folder / "log"
        ends = f"until [ -e {self.go} ]; do sleep 0.05; done; touch {self.went}; exit"
        procfile = folder / "Procfile"
        procfile.write_text(f"slow: trap '{ends}' TERM; touch {folder}/runs; while :; do sleep 0.05; done\n")
        with self.log.open("wb") as log:
            self.honcho = subprocess.Popen([*parent, sys.executable, "-c", RUNS, procfile], stdout=log, stderr=log)
        eventually((folder / "runs").exists)

    def ask(self) -> None:
        """Press Ctrl-C, and wait for the line about it."""
        self.honcho.send_signal(signal.SIGINT)
        eventually(lambda: "waiting for slow" in self.log.read_text())


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(tmp_path)
    yield scene
    scene.go.touch()
    scene.honcho.terminate()
    scene.honcho.wait(10)


def test_a_process_that_stops_slowly_is_named_and_not_killed(scene: Scene) -> None:
    scene.ask()
    scene.go.touch()
    scene.honcho.wait(10)
    assert scene.went.exists()
    assert "ended first: None" in scene.log.read_text()


def test_the_process_that_ended_first_is_reported_with_its_status(tmp_path: Path) -> None:
    (tmp_path / "Procfile").write_text("stays: exec sleep 60\nkilled: kill -9 $$\n")
    said = subprocess.run(
        [sys.executable, "-c", RUNS, tmp_path / "Procfile"], capture_output=True, text=True, timeout=20, check=True
    )
    assert "ended first: ('killed', -9)" in said.stdout


def test_lines_to_copy_have_no_prefix(tmp_path: Path) -> None:
    (tmp_path / "Procfile").write_text("ready: echo Try; echo '  curl it'\n")
    said = subprocess.run(
        [sys.executable, "-c", RUNS, tmp_path / "Procfile"], capture_output=True, text=True, timeout=20, check=True
    )
    assert "ready  | Try\n  curl it\n" in said.stdout


def test_a_second_ctrl_c_kills_the_processes(scene: Scene) -> None:
    scene.ask()
    scene.honcho.send_signal(signal.SIGINT)
    scene.honcho.wait(10)
    assert not scene.went.exists()


def test_processes_get_a_sigterm_when_honcho_is_killed(scene: Scene) -> None:
    scene.honcho.kill()
    scene.go.touch()
    eventually(scene.went.exists)


def test_processes_get_a_sigterm_when_honcho_is_killed_under_a_parent(tmp_path: Path) -> None:
    scene = Scene(tmp_path, parent=["sh", "-c", '"$@"; exit', "make"])
    scene.honcho.kill()
    scene.honcho.wait(10)
    scene.go.touch()
    eventually(scene.went.exists)
