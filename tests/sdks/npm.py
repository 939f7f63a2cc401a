"""Packages of npm for tests: at the versions of a package-lock.json, fetched once."""

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.servers import ROOT

CACHE = ROOT / "var" / "sdks"
_TIMEOUT = 300.0  # seconds


def npm_packages(source: Path) -> Path:
    """A copy of the folder `source`, with its node_modules. Blocks for some seconds the first time, at most 300 s.

    Skips where they cannot be had, and fails instead where CI=true.
    """
    lock = (source / "package-lock.json").read_bytes()
    folder = CACHE / f"{source.name}-{hashlib.sha256(lock).hexdigest()[:8]}"
    if not folder.is_dir():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE, prefix="partial-") as partial:
            copy = Path(partial, "copy")
            shutil.copytree(source, copy)
            _install(copy)
            try:
                copy.rename(folder)
            except OSError:
                if not folder.is_dir():  # else another process was quicker
                    raise
    shutil.copytree(source, folder, dirs_exist_ok=True)
    return folder


def _install(folder: Path) -> None:
    command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    try:
        subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=_TIMEOUT, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        missing = f"npm cannot fetch the packages of {folder}: {getattr(error, 'stderr', None) or error}"
        pytest.fail(missing) if os.environ.get("CI") == "true" else pytest.skip(missing)
