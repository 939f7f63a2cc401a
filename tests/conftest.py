"""Fixtures every test can use, and how hypothesis runs."""

from hypothesis import settings

pytest_plugins = ["tests.servers"]

# No test asserts a speed: a busy machine is no failure.
settings.register_profile("pulse", deadline=None)
# For `pytest --hypothesis-profile=thorough`; takes a hundred times as long.
settings.register_profile("thorough", parent=settings.get_profile("pulse"), max_examples=10_000)
settings.load_profile("pulse")
