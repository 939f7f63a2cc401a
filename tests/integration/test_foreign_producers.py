"""Records of other producers: every codec, topics that compress, and transactions."""

import contextlib
import dataclasses
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from common.errors import ReadError
from common.kafka import KafkaReader, KafkaSender, KafkaSource, NewTopic, ReceivedRecord, Record, connect_admin
from common.settings import KafkaSettings
from tests.contracts import Recorder, fresh_name, poll_until
from tests.servers import KafkaServer
from tests.waiting import eventually

CODECS = ("none", "gzip", "snappy", "lz4", "zstd")
PRODUCER = Path(__file__).with_name("ForeignProducer.java")
ONE_NODE = ("transaction.state.log.replication.factor=1", "transaction.state.log.min.isr=1")

Produce = Callable[..., None]


@pytest.fixture(scope="module")
def server(kafka_libs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServer]:
    """A broker with transactions."""
    server = KafkaServer(kafka_libs, tmp_path_factory.mktemp("kafka"), *ONE_NODE)
    server.start()
    yield server
    server.kill()


@pytest.fixture
def topic(server: KafkaServer) -> KafkaSettings:
    """A topic of one partition."""
    return create(server, compression="producer")


@pytest.fixture
def produce(kafka_libs: Path) -> Produce:
    """A function that runs steps of Java's producer: `produce(topic, "commit:2", "abort:3", codec="zstd")`."""

    def produce(topic: KafkaSettings, *steps: str, codec: str = "none") -> None:
        arguments = [str(topic.brokers[0]), topic.topic, codec, *steps]
        command = ["java", "-XX:TieredStopAtLevel=1", "-cp", f"{kafka_libs}/*", str(PRODUCER), *arguments]
        subprocess.run(command, check=True, timeout=60, capture_output=True)

    return produce


def create(server: KafkaServer, *, compression: str) -> KafkaSettings:
    settings = server.settings(fresh_name("topic"))
    with contextlib.closing(connect_admin(settings)) as admin:
        admin.create_topics([NewTopic(settings.topic, 1, 1, topic_configs={"compression.type": compression})])
    return settings


@contextlib.contextmanager
def joined(topic: KafkaSettings, group: str | None = None) -> Iterator[KafkaSource]:
    """A consumer that reads the topic from its beginning."""
    source = KafkaSource(topic, group or fresh_name("group"))
    source.connect()
    source.subscribe(Recorder())
    yield source
    source.close()


def consumed(topic: KafkaSettings, count: int) -> list[ReceivedRecord]:
    with joined(topic) as source:
        return poll_until(source, count)


def read(topic: KafkaSettings) -> list[ReceivedRecord]:
    with contextlib.closing(KafkaReader(topic, topic.topic)) as reader:
        return list(reader.read())


def words(records: list[ReceivedRecord]) -> list[str]:
    """The step that sent each record: commit, abort, open or plain."""
    return [(record.value or b"").split()[0].decode() for record in records]


@pytest.mark.parametrize("codec", CODECS)
class TestCodecs:
    def test_records_that_another_producer_compressed_are_read(
        self, topic: KafkaSettings, produce: Produce, codec: str
    ) -> None:
        produce(topic, "plain:30:1000", codec=codec)
        for records in (consumed(topic, 30), read(topic)):
            assert [int((record.value or b"").split()[1]) for record in records] == list(range(30))

    def test_a_topic_with_its_own_compression_is_read(self, server: KafkaServer, codec: str) -> None:
        topic = create(server, compression="uncompressed" if codec == "none" else codec)
        values = [b"%d" % n * 100 for n in range(30)]
        with contextlib.closing(KafkaSender(topic, topic.topic)) as sender:
            assert not any(sender.send([Record(b"key", value) for value in values]))
        for records in (consumed(topic, 30), read(topic)):
            assert [record.value for record in records] == values

    def test_a_batch_much_larger_than_its_compressed_form_is_read(
        self, topic: KafkaSettings, produce: Produce, codec: str
    ) -> None:
        produce(topic, "plain:1:3000000", codec="gzip" if codec == "none" else codec)
        (record,) = read(topic)
        assert len(record.value or b"") > 3_000_000
        assert [record] == consumed(topic, 1)


@pytest.mark.parametrize("codec", ["snappy", "lz4"])
def test_a_missing_package_of_a_codec_is_an_error_with_a_remedy(
    topic: KafkaSettings, codec: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with contextlib.closing(KafkaSender(dataclasses.replace(topic, compression=codec), topic.topic)) as sender:
        assert not any(sender.send([Record(b"key", b"value" * 100)]))
    monkeypatch.setattr(f"kafka.codec.{codec}", None)
    with pytest.raises(ReadError, match=f"{codec}.*install the packages of requirements/consumer.txt"):
        read(topic)
    with joined(topic) as source, pytest.raises(ReadError, match="install the packages"):
        poll_until(source, 1)


class TestTransactions:
    def test_aborted_records_and_markers_are_not_read(self, topic: KafkaSettings, produce: Produce) -> None:
        produce(topic, "commit:3", "abort:2", "plain:1", "commit:2", "abort:1", "commit:1")
        expected = ["commit"] * 3 + ["plain"] + ["commit"] * 3
        assert words(consumed(topic, 7)) == expected
        assert words(read(topic)) == expected

    def test_a_marker_at_the_end_is_no_lag(self, topic: KafkaSettings, produce: Produce) -> None:
        produce(topic, "commit:3", "abort:2")
        with joined(topic) as source:
            poll_until(source, 3)
            eventually(lambda: source.poll(0.1) == [] and source.lag() == {0: 0})

    def test_a_consumer_continues_after_a_marker(self, topic: KafkaSettings, produce: Produce) -> None:
        produce(topic, "commit:3")
        group = fresh_name("group")
        with joined(topic, group) as source:
            last = poll_until(source, 3)[-1]
            source.commit({0: last.offset + 1})
        produce(topic, "abort:1", "plain:2")
        with joined(topic, group) as source:
            assert words(poll_until(source, 2)) == ["plain", "plain"]

    def test_a_consumer_waits_for_an_open_transaction_and_a_reader_does_not(
        self, topic: KafkaSettings, produce: Produce
    ) -> None:
        produce(topic, "commit:1", "open:2", "plain:1")
        assert words(read(topic)) == ["commit"]
        with joined(topic) as source:
            assert words(poll_until(source, 1)) == ["commit"]
            # Another producer with the same transactional id ends the transaction.
            produce(topic, "commit:1")
            assert words(poll_until(source, 2)) == ["plain", "commit"]

    def test_offsets_without_records_do_not_count_as_lost(
        self, topic: KafkaSettings, produce: Produce, caplog: pytest.LogCaptureFixture
    ) -> None:
        produce(topic, "commit:3", "abort:2", "plain:1")
        assert words(consumed(topic, 4)) == ["commit"] * 3 + ["plain"]
        assert not [line for line in caplog.records if "deleted before they were read" in line.message]

    def test_a_pause_loses_nothing(self, topic: KafkaSettings, produce: Produce) -> None:
        produce(topic, *["commit:40", "abort:5"] * 4)
        with joined(topic) as source:
            before = poll_until(source, 100)
            source.pause()
            source.poll(0.1)
            source.resume()
            assert len(before + poll_until(source, 160 - len(before))) == 160
