"""The environment of a process whose writes are recorded."""

from pathlib import Path

from tests.compiler import preloaded


def build(folder: Path) -> Path:
    """The recorder, compiled in seconds; skips or fails as `preloaded` does."""
    return preloaded(Path(__file__).with_name("recorder.c"), folder)


def environment(library: Path, folder: Path, log: Path) -> dict[str, str]:
    """What a process needs so that its writes below an existing, empty folder are recorded."""
    return {"LD_PRELOAD": str(library), "POWERCUT_FOLDER": str(folder.resolve()), "POWERCUT_LOG": str(log)}
