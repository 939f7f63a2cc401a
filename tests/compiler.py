"""Compiles C libraries that a process loads before its own (LD_PRELOAD)."""

import shutil
import subprocess
from pathlib import Path

from tests.unavailable import unavailable


def preloaded(source: Path, folder: Path) -> Path:
    """Compile the library, in seconds. Without a C compiler, skips the test, or fails it if CI=true."""
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if compiler is None:
        unavailable("needs a C compiler and libc's headers (Debian: gcc, libc6-dev)")
    library = folder / f"{source.stem}.so"
    command = [compiler, "-shared", "-fPIC", "-O1", "-Wall", "-o", str(library), str(source), "-ldl", "-lpthread"]
    subprocess.run(command, check=True, timeout=60)
    return library
