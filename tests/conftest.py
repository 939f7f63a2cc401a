"""Fixtures every test can use, and how hypothesis runs."""

from hypothesis import settings

pytest_plugins = ["tests.browser", "tests.servers"]

# No test asserts a speed: a busy machine is no failure.
settings.register_profile("pulse", deadline=None)
settings.load_profile("pulse")
