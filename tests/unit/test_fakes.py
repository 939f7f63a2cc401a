"""The fakes keep the contracts that the real servers keep."""

from collections.abc import Callable
from typing import Any

import pytest

from common.kafka import Record, RecordSender
from consumer.source import ReceivedRecord, Source
from consumer.writer import Writer
from tests.contracts import SenderContract, SourceContract, WriterContract
from tests.fakes import FakeBroker, FakeSender, FakeSource, FakeWriter


@pytest.fixture
def broker() -> FakeBroker:
    return FakeBroker()


class TestFakeSender(SenderContract):
    @pytest.fixture
    def sender(self, broker: FakeBroker) -> RecordSender:
        return FakeSender(broker, "topic")

    @pytest.fixture
    def read(self, broker: FakeBroker) -> Callable[[int], list[ReceivedRecord]]:
        return lambda count: broker.records("topic")


class TestFakeSource(SourceContract):
    @pytest.fixture
    def join(self, broker: FakeBroker) -> Callable[[], Source]:
        return lambda: FakeSource(broker, "topic", "group")

    @pytest.fixture
    def produce(self, broker: FakeBroker) -> Callable[[list[Record]], None]:
        def produce(records: list[Record]) -> None:
            for record in records:
                broker.append("topic", record)

        return produce


class TestFakeWriter(WriterContract):
    @pytest.fixture
    def writer(self) -> Writer:
        return FakeWriter()

    @pytest.fixture
    def stored(self, writer: FakeWriter) -> Callable[[], dict[str, Any]]:
        return lambda: writer.stored
