"""SecantusDB, which speaks MongoDB's protocol: its command line."""

import sys
from pathlib import Path


def command(data_dir: Path, port: int) -> list[str]:
    """The command that runs it in the foreground, its data in `data_dir`, which it makes.

    Without --sync-on-commit, kill -9 loses about 40 acknowledged writes.
    """
    options = ["--storage-path", str(data_dir), "--host", "127.0.0.1", "--port", str(port), "--log-level", "WARNING"]
    return [sys.executable, "-m", "secantus", "--sync-on-commit", *options]
