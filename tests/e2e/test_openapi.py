"""The API behaves as its OpenAPI document describes, by all checks of schemathesis on generated requests.

HYPOTHESIS_EXAMPLES sets the maximum of requests per operation.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import ROOT
from tests.servers import ApiServer, api_without_kafka

EXAMPLES = os.environ.get("HYPOTHESIS_EXAMPLES", "30")
# These paths differ from /v1/track only in their name.
ALIKE = "^/v1/(page|screen|identify|group|alias)$"
# No timeout in practice, since many examples may take hours.
pytestmark = pytest.mark.timeout(24 * 3600)


def check_against_its_document(api: ApiServer, folder: Path, *arguments: str, valid: list[str]) -> None:
    """Check an API with schemathesis and these arguments; `valid` has the allowed statuses for valid requests."""
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
    # schemathesis leaves files in its working directory.
    done = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "unexpected error" not in api.output()


def test_an_api_without_write_keys_keeps_to_its_document(tmp_path: Path) -> None:
    with api_without_kafka(tmp_path) as api:
        check_against_its_document(api, tmp_path, valid=["2xx"])


@pytest.mark.long
def test_an_api_with_a_write_key_keeps_to_its_document(tmp_path: Path) -> None:
    with api_without_kafka(tmp_path, API_KEYS="web=sesame") as api:
        # schemathesis sends valid requests also with invented keys.
        check_against_its_document(api, tmp_path, "--header", "Authorization: Bearer sesame", valid=["2xx", "401"])


@pytest.mark.long
def test_an_api_that_is_full_keeps_to_its_document(tmp_path: Path) -> None:
    with api_without_kafka(tmp_path, API_JOURNAL_DIR="", API_QUEUE_CAPACITY="100") as api:
        check_against_its_document(api, tmp_path, valid=["2xx", "429", "503"])
