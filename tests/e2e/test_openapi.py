"""The API is what its OpenAPI document says: requests made up from the document by schemathesis, all of its checks.

HYPOTHESIS_EXAMPLES is how many requests an operation may cost.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers import ROOT, ApiServer, api_without_kafka

EXAMPLES = os.environ.get("HYPOTHESIS_EXAMPLES", "30")
# They differ from /v1/track in a name.
ALIKE = "^/v1/(page|screen|identify|group|alias)$"
# With many examples it takes as long as it takes.
pytestmark = pytest.mark.timeout(24 * 3600)


def hold_to_its_document(api: ApiServer, folder: Path, *arguments: str, valid: list[str]) -> None:
    """`arguments` are schemathesis's; `valid` is how valid requests may be answered."""
    config = folder / "schemathesis.toml"
    config.write_text(
        f'hooks = "tests.e2e.schemathesis_hooks"\n'
        f"[checks]\n"
        f"positive_data_acceptance.expected-statuses = {json.dumps(valid)}\n"
        f'not_a_server_error.expected-statuses = ["2xx", "3xx", "4xx", "503"]\n'
    )
    program = [str(Path(sys.executable).with_name("st")), "--no-color", "--config-file", str(config)]
    options = ["--checks", "all", "--max-examples", EXAMPLES, "--exclude-path-regex", ALIKE]
    command = [*program, "run", f"{api.url}/openapi.json", *options, *arguments]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    # It leaves files where it runs.
    done = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "unexpected error" not in api.output()


def test_an_api_that_anyone_may_send_to(tmp_path: Path) -> None:
    with api_without_kafka(tmp_path) as api:
        hold_to_its_document(api, tmp_path, valid=["2xx"])


@pytest.mark.long
def test_an_api_that_needs_a_key(tmp_path: Path) -> None:
    with api_without_kafka(tmp_path, API_KEYS="web=sesame") as api:
        # Valid requests come with made-up keys too.
        hold_to_its_document(api, tmp_path, "--header", "Authorization: Bearer sesame", valid=["2xx", "401"])


@pytest.mark.long
def test_an_api_that_is_full(tmp_path: Path) -> None:
    with api_without_kafka(tmp_path, API_JOURNAL_DIR="", API_QUEUE_CAPACITY="100") as api:
        hold_to_its_document(api, tmp_path, valid=["2xx", "429", "503"])
