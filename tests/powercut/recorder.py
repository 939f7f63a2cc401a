"""The environment of a process whose writes are recorded."""

from pathlib import Path

from tests.compiler import preloaded


def build(folder: Path) -> Path:
    """Compile the library, in seconds. Without a C compiler, skips or fails the test, as `preloaded` does."""
    return preloaded(Path(__file__).with_name("recorder.c"), folder)


def environment(library: Path, folder: Path, log: Path) -> dict[str, str]:
    """The variables of a process whose writes below an existing, empty folder are to be recorded."""
    return {"LD_PRELOAD": str(library), "POWERCUT_FOLDER": str(folder.resolve()), "POWERCUT_LOG": str(log)}
