"""All commands read .env and report a wrong setting in one line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import ROOT

COMMANDS = {
    "API": ["gunicorn", "-c", "api/gunicorn.conf.py", "api.wsgi:app"],
    "consumer": ["consumer"],
    "journals set aside": ["api.journal", "list"],
    "topics": ["common.topics"],
    "dead letters": ["consumer.dlq", "stats"],
    "make run": ["ops.local"],
    "its servers": ["ops.local.server", "broker"],
    "its notices": ["ops.local.ready"],
    "make tail": ["ops.tail"],
    "make seed": ["loadtest.seed"],
    "make replay": ["loadtest.replay"],
    "make load-test": ["loadtest.load_test"],
    "make load-test-ui": ["loadtest.load_test_ui"],
    "locust": ["locust", "--config", "loadtest/locust.conf", "--headless"],
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_each_reads_dot_env_in_the_repository(tmp_path: Path, command: list[str]) -> None:
    for folder in ("api", "common", "consumer", "loadtest", "ops"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    (tmp_path / ".env").write_text("API_ADDR=of-the-file\nKAFKA_BROKERS=of-the-file\n")
    names = ("PYTHON_DOTENV_DISABLED", "API_ADDR", "KAFKA_BROKERS")
    environ = {name: value for name, value in os.environ.items() if name not in names}
    ended = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=tmp_path,
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 1
    assert "=of-the-file is not allowed: give " in ended.stderr.splitlines()[-1]
