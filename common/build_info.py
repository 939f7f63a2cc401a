"""The running version of Pulse, and its commit."""

import os
import subprocess
from functools import cache
from pathlib import Path

VERSION = "0.2.0"

_ROOT = Path(__file__).parent.parent


@cache
def commit() -> str:
    """The commit: from the image's build, or from git in a checkout, otherwise "unknown". The first call blocks for up
    to 2 s.
    """
    built_of = os.environ.get("PULSE_REVISION")
    if built_of:
        return built_of
    # This folder's own history, not that of one around it.
    command = ["git", f"--git-dir={_ROOT / '.git'}", f"--work-tree={_ROOT}", "rev-parse", "--short=12", "HEAD"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=2, check=True)  # noqa: S603, nothing here comes from outside
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return answer.stdout.strip() or "unknown"
