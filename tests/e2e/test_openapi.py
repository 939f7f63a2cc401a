"""The API is what its OpenAPI document says: requests made up from the document by schemathesis, all of its checks.

HYPOTHESIS_EXAMPLES is how many requests an operation may cost.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ops.local.ports import free_port
from tests.servers import ROOT, ApiServer

EXAMPLES = os.environ.get("HYPOTHESIS_EXAMPLES", "30")
# With many examples it takes as long as it takes.
pytestmark = pytest.mark.timeout(24 * 3600)


def check(folder: Path, env: dict[str, str], *, valid: list[str], headers: tuple[str, ...] = ()) -> None:
    """Start an API without Kafka, and hold it to its document. `valid`: how valid requests may be answered."""
    api = ApiServer(folder, {"KAFKA_BROKERS": f"127.0.0.1:{free_port()}", "API_WORKERS": "1", **env})
    api.start()
    try:
        api.wait_until_ready()
        config = folder / "schemathesis.toml"
        config.write_text(
            f'hooks = "tests.e2e.schemathesis_hooks"\n'
            f"[checks]\n"
            f"positive_data_acceptance.expected-statuses = {json.dumps(valid)}\n"
            f'not_a_server_error.expected-statuses = ["2xx", "3xx", "4xx", "503"]\n'
        )
        command = [str(Path(sys.executable).with_name("st")), "--no-color", "--config-file", str(config)]
        run = [*command, "run", f"{api.url}/openapi.json", "--checks", "all", "--max-examples", EXAMPLES]
        for header in headers:
            run += ["--header", header]
        # It leaves files where it runs.
        done = subprocess.run(
            run, cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
    finally:
        api.kill()
    assert "unexpected error" not in api.output()


def test_an_api_that_anyone_may_send_to(tmp_path: Path) -> None:
    check(tmp_path, {}, valid=["2xx"])


def test_an_api_that_needs_a_key(tmp_path: Path) -> None:
    # Valid requests come with made-up keys too.
    check(tmp_path, {"API_KEYS": "web=sesame"}, valid=["2xx", "401"], headers=("Authorization: Bearer sesame",))


def test_an_api_that_is_full(tmp_path: Path) -> None:
    check(tmp_path, {"API_JOURNAL_DIR": "", "API_QUEUE_CAPACITY": "100"}, valid=["2xx", "503"])
