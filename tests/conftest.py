"""Fixtures for all tests, the settings of hypothesis, and the selection of tests by service."""

import os
import re
from pathlib import Path

import pytest
from hypothesis import settings

pytest_plugins = ["tests.browser", "tests.servers", "tests.cloud", "tests.toxiproxy"]

# No test reads the developer's .env.
os.environ["PYTHON_DOTENV_DISABLED"] = "1"

# No test asserts a speed, so examples have no deadline. Few examples keep a developer's run short; CI tries more.
EXAMPLES = 100 if os.environ.get("CI") == "true" else 20
settings.register_profile("pulse", deadline=None, max_examples=int(os.environ.get("HYPOTHESIS_EXAMPLES", EXAMPLES)))
settings.load_profile("pulse")

# The imports of a test file about a single service.
_ABOUT = {"api": r"^(from|import) (api|tests\.apps)\b", "consumer": r"^(from|import) consumer\b"}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--service", choices=tuple(_ABOUT), help="leave out the files that test only the other service")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """True to leave the file out; None for the default."""
    service = config.getoption("service")
    if service is None or not collection_path.match("test_*.py"):
        return None
    text = collection_path.read_text("utf-8")
    about = {name for name, pattern in _ABOUT.items() if re.search(pattern, text, re.MULTILINE)}
    return True if about and service not in about else None
