"""Runs Go's command, which builds programs for tests."""

import os
import subprocess
from pathlib import Path

from tests.unavailable import unavailable


def go(*command: str, what: str, timeout: float, folder: Path | None = None, **env: str) -> str:
    """The output of one of Go's commands; blocks up to `timeout` seconds.

    If it fails, skips the test, or fails it if CI=true, and says that `what` cannot be built.
    """
    # Go needs a home for its caches, and tox passes none.
    environ = {"HOME": str(Path.home()), **os.environ, **env}
    try:
        done = subprocess.run(
            ["go", *command], cwd=folder, env=environ, capture_output=True, text=True, timeout=timeout, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        unavailable(f"{what} cannot be built: {error} {str(getattr(error, 'stderr', '') or '')[-500:]}")
    return done.stdout
