"""`make load-test-ui`: checks the port and the API, and then becomes locust.

`python -m loadtest.load_test_ui [--url URL]`
"""

import argparse
import os
import sys

from common.errors import PulseError
from common.settings import load_api_address
from loadtest.client import base_url, check_ready, run
from ops.local.ports import HOST, answers

PORT = 8089


def main() -> int:
    """Returns only after Ctrl-C before the start of locust. Raises PulseError."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.load_test_ui", description="Open locust's page.")
    own = load_api_address().url
    parser.add_argument("--url", type=base_url, default=own, help="of the API (%(default)s)")
    url = parser.parse_args().url
    if answers(PORT):
        raise PulseError(f"Port {PORT} is taken: another `make load-test-ui` may be running.")
    check_ready(url)
    print(f"locust's page is at http://localhost:{PORT}; Ctrl-C ends it.", flush=True)
    page = ("--config", "loadtest/locust.conf", "--web-host", HOST, "--web-port", str(PORT), "--host", url)
    os.execv(sys.executable, (sys.executable, "-m", "locust", *page))  # noqa: S606, nothing here comes from outside


if __name__ == "__main__":
    sys.exit(run(main))
