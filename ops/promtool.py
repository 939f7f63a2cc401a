"""`python -m ops.promtool`: what promtool says of ops/prometheus; part of `make lint`."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent / "prometheus"
MISSING = (
    "The alerts are not checked: promtool is missing. `apt install prometheus` or `brew install prometheus` has it."
)


def main() -> int:
    """promtool's status. Without promtool it says how to get it, which is a failure only where CI=true."""
    if shutil.which("promtool") is None:
        print(MISSING, file=sys.stderr)
        return int(os.environ.get("CI") == "true")
    # `check config` checks the rules as well.
    checks = (("check", "config", FOLDER / "prometheus.yml"), ("test", "rules", FOLDER / "alerts.test.yml"))
    return max(subprocess.run(["promtool", *check], check=False).returncode for check in checks)


if __name__ == "__main__":
    sys.exit(main())
