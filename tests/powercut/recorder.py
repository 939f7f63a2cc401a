"""Builds the recorder, and the environment of a process that it records."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("recorder.c")


def build(folder: Path) -> Path:
    """The library, compiled in seconds; without a C compiler the test is skipped, and with CI=true it fails."""
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if compiler is None:
        message = "needs a C compiler and libc's headers (Debian: gcc, libc6-dev)"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    library = folder / "recorder.so"
    command = [compiler, "-shared", "-fPIC", "-O1", "-Wall", "-o", str(library), str(SOURCE), "-ldl", "-lpthread"]
    subprocess.run(command, check=True, timeout=60)
    return library


def environment(library: Path, folder: Path, log: Path) -> dict[str, str]:
    """What a process needs so that its writes below an existing, empty folder are recorded."""
    return {"LD_PRELOAD": str(library), "POWERCUT_FOLDER": str(folder.resolve()), "POWERCUT_LOG": str(log)}
