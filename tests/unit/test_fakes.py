"""The fakes keep the contracts of the real servers."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from common.kafka import ReceivedRecord, Record, RecordReader, RecordSender, Source
from consumer.writer import Writer
from tests.contracts import ReaderContract, SenderContract, SourceContract, WriterContract
from tests.fakes import FakeBroker, FakeReader, FakeSender, FakeSource, FakeWriter


@pytest.fixture
def broker() -> FakeBroker:
    return FakeBroker()


@pytest.fixture
def produce(broker: FakeBroker) -> Callable[[list[Record]], None]:
    def produce(records: list[Record]) -> None:
        for record in records:
            broker.append("topic", record)

    return produce


class TestFakeSender(SenderContract):
    @pytest.fixture
    def sender(self, broker: FakeBroker) -> RecordSender:
        return FakeSender(broker, "topic")

    @pytest.fixture
    def read(self, broker: FakeBroker) -> Callable[[int], list[ReceivedRecord]]:
        return lambda count: broker.records("topic")


class TestFakeReader(ReaderContract):
    @pytest.fixture
    def open_reader(self, broker: FakeBroker) -> Callable[[], RecordReader]:
        return lambda: FakeReader(broker, "topic")


class TestFakeSource(SourceContract):
    @pytest.fixture
    def delete(self, broker: FakeBroker) -> Callable[[Mapping[int, int]], None]:
        return broker.begins["topic"].update

    @pytest.fixture
    def join(self, broker: FakeBroker) -> Callable[[], Source]:
        return lambda: FakeSource(broker, "topic", "group")


class TestFakeWriter(WriterContract):
    @pytest.fixture
    def writer(self) -> Writer:
        return FakeWriter()

    @pytest.fixture
    def stored(self, writer: FakeWriter) -> Callable[[], dict[str, Any]]:
        return lambda: writer.stored

    @pytest.fixture
    def letters(self, writer: FakeWriter) -> Callable[[], list[bytes]]:
        return lambda: list(writer.letters.values())
