"""Fixtures every test can use, and how hypothesis runs."""

import os

from hypothesis import settings

pytest_plugins = ["tests.browser", "tests.servers"]

# No test asserts a speed: a busy machine is no failure. HYPOTHESIS_EXAMPLES asks for more than the everyday number.
settings.register_profile("pulse", deadline=None, max_examples=int(os.environ.get("HYPOTHESIS_EXAMPLES", "100")))
settings.load_profile("pulse")
