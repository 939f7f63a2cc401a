"""The fake of the exporter's state keeps the contract of the state in MongoDB."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.exports import ExportsContract, FakeStore, stored_event


class TestFakeStore(ExportsContract):
    @pytest.fixture
    def documents(self) -> list[dict[str, Any]]:
        return []

    @pytest.fixture
    def store(self, documents: list[dict[str, Any]]) -> FakeStore:
        return FakeStore(lambda: documents)

    @pytest.fixture
    def put(self, documents: list[dict[str, Any]]) -> Callable[..., None]:
        return lambda *places: documents.extend(stored_event(*place) for place in places)
