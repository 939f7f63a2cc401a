"""Fixtures every test can use, how hypothesis runs, and which tests do."""

import os
import re
from pathlib import Path

import pytest
from hypothesis import settings

pytest_plugins = ["tests.browser", "tests.servers", "tests.cloud", "tests.toxiproxy"]

# Nor does any test read the .env of the developer.
os.environ["PYTHON_DOTENV_DISABLED"] = "1"

# No test asserts a speed: a busy machine is no failure. HYPOTHESIS_EXAMPLES asks for more than the everyday number.
settings.register_profile("pulse", deadline=None, max_examples=int(os.environ.get("HYPOTHESIS_EXAMPLES", "100")))
settings.load_profile("pulse")

# What a test file imports that is about one service alone.
_ABOUT = {"api": r"^(from|import) (api|tests\.apps)\b", "consumer": r"^(from|import) consumer\b"}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--service", choices=tuple(_ABOUT), help="leave out the files that test the other service alone")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """True leaves the file out; None has no opinion."""
    service = config.getoption("service")
    if service is None or not collection_path.match("test_*.py"):
        return None
    text = collection_path.read_text("utf-8")
    about = {name for name, pattern in _ABOUT.items() if re.search(pattern, text, re.MULTILINE)}
    return True if about and service not in about else None
