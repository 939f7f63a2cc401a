"""The package common.kafka on a real broker."""

import contextlib
import dataclasses
import random
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaProducer
from kafka.admin import NewPartitions
from kafka.record import MemoryRecords

from common.errors import ReadError, TopicError
from common.kafka import (
    KafkaError,
    KafkaReader,
    KafkaSender,
    KafkaSource,
    NewTopic,
    ReceivedRecord,
    Record,
    RecordReader,
    RecordSender,
    Source,
    bulk_append,
    connect_admin,
    connect_member,
    missing_topics,
    reachable,
)
from common.settings import KafkaSettings
from ops.local.ports import free_port
from tests.contracts import ReaderContract, Recorder, SenderContract, SourceContract, fresh_name, poll_until
from tests.servers import KafkaServer, kafka_settings
from tests.waiting import eventually


@pytest.fixture
def topic(kafka: KafkaServer) -> KafkaSettings:
    return kafka.create_topics(fresh_name("topic"))


RECORDS = [Record(b"customer-%d" % number, b"%d" % number) for number in range(2000)]
"""Enough keys for each partition to get some."""


def create_topic(kafka: KafkaServer, partitions: int) -> KafkaSettings:
    settings = kafka.settings(fresh_name("topic"))
    with contextlib.closing(connect_admin(settings)) as admin:
        admin.create_topics([NewTopic(settings.topic, partitions, 1)])
    await_leaders(settings, partitions)
    return settings


def await_leaders(settings: KafkaSettings, partitions: int) -> None:
    """Wait until the topic has N partitions, each with a leader."""

    def have_leaders() -> bool:
        # The reader knows the ends of all partitions once each has a leader.
        with contextlib.closing(KafkaReader(settings, settings.topic)) as reader:
            return len(reader.ends) == partitions

    eventually(have_leaders, what="leaders of all partitions")


@pytest.fixture
def group() -> str:
    return fresh_name("group")


class Members:
    """Members of a group that leave when the test ends."""

    def __init__(self, settings: KafkaSettings, group: str) -> None:
        self.settings = settings
        self.group = group
        self.open: list[KafkaSource] = []

    def join(self) -> KafkaSource:
        source = KafkaSource(self.settings, self.group)
        source.connect()
        self.open.append(source)
        return source

    def leave(self) -> None:
        for source in self.open:
            source.close()


@pytest.fixture
def join(topic: KafkaSettings, group: str) -> Iterator[Callable[[], KafkaSource]]:
    members = Members(topic, group)
    yield members.join
    members.leave()


@pytest.fixture
def produce(topic: KafkaSettings) -> Iterator[Callable[[list[Record]], None]]:
    sender = KafkaSender(topic, topic.topic)

    def produce(records: list[Record]) -> None:
        assert not any(sender.send(records))

    yield produce
    sender.close()


class TestKafkaSender(SenderContract):
    @pytest.fixture
    def sender(self, topic: KafkaSettings) -> Iterator[RecordSender]:
        sender = KafkaSender(topic, topic.topic)
        yield sender
        sender.close()

    @pytest.fixture
    def read(self, join: Callable[[], Source]) -> Callable[[int], list[ReceivedRecord]]:
        def read(count: int) -> list[ReceivedRecord]:
            source = join()
            source.subscribe(Recorder())
            return poll_until(source, count)

        return read


class TestKafkaReader(ReaderContract):
    @pytest.fixture
    def open_reader(self, topic: KafkaSettings) -> Iterator[Callable[[], RecordReader]]:
        with contextlib.ExitStack() as stack:
            yield lambda: stack.enter_context(contextlib.closing(KafkaReader(topic, topic.topic)))


class TestKafkaSource(SourceContract):
    @pytest.fixture
    def delete(self, kafka: KafkaServer, topic: KafkaSettings) -> Callable[[Mapping[int, int]], None]:
        return lambda before: kafka.delete_records(topic.topic, before)

    @pytest.fixture
    def join(self, join: Callable[[], KafkaSource]) -> Callable[[], Source]:
        return join


def test_a_sender_without_a_broker_answers_every_record_with_an_error() -> None:
    sender = KafkaSender(kafka_settings(f"127.0.0.1:{free_port()}", "topic"), "topic")
    answers = sender.send([Record(b"a", b"1"), Record(b"b", b"2")])
    assert all(isinstance(answer, Exception) for answer in answers)


def test_a_record_that_is_too_large_fails_alone(topic: KafkaSettings) -> None:
    sender = KafkaSender(topic, topic.topic)
    answers: list[Any] = sender.send([Record(b"a", b"1"), Record(b"a", b"x" * 3_000_000), Record(b"a", b"2")])
    sender.close()
    assert [answer is None for answer in answers] == [True, False, True]


def test_a_record_without_key_and_value_gets_an_empty_value(topic: KafkaSettings) -> None:
    """Kafka's clients refuse records without key and value."""
    with contextlib.closing(KafkaSender(topic, topic.topic)) as sender:
        assert sender.send([Record(None, None)]) == [None]
    with contextlib.closing(KafkaReader(topic, topic.topic)) as reader:
        assert [(record.key, record.value) for record in reader.read()] == [(None, b"")]


@pytest.mark.skipif(not bulk_append.supported(), reason="only kafka-python-ng 2.2.3 has the bulk append")
def test_a_chunk_arrives_as_the_clients_own_send_would_send_it(
    kafka: KafkaServer, group: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(1)
    keys = [f"kunde-{number}-ü".encode()[: rng.randrange(1, 20)] for number in range(300)]
    # With the large values, a partition needs several batches.
    sizes = [0, 1, 60, 120, 400, 8_000, 16_000, 60_000]
    records = [Record(rng.choice(keys), rng.randbytes(rng.choice(sizes))) for _ in range(500)]

    def arrived(settings: KafkaSettings) -> list[ReceivedRecord]:
        sender = KafkaSender(settings, settings.topic)
        assert sender.send(records) == [None] * len(records)
        sender.close()
        source = KafkaSource(settings, group)
        source.connect()
        source.subscribe(Recorder())
        found = sorted(poll_until(source, len(records)))
        source.close()
        return [record._replace(timestamp_ms=0) for record in found]

    with monkeypatch.context() as patch:
        patch.setattr(bulk_append, "supported", lambda: False)
        one_by_one = arrived(kafka.create_topics(fresh_name("topic")))
    monkeypatch.delattr(KafkaProducer, "send")
    assert arrived(kafka.create_topics(fresh_name("topic"))) == one_by_one


@pytest.mark.parametrize("partitions", [50, 334])
def test_a_chunk_goes_to_any_number_of_partitions(kafka: KafkaServer, partitions: int) -> None:
    topic = create_topic(kafka, partitions)
    with contextlib.closing(KafkaSender(topic, topic.topic)) as sender:
        assert sender.send(RECORDS) == [None] * len(RECORDS)
    with contextlib.closing(KafkaReader(topic, topic.topic)) as reader:
        records = list(reader.read())
    assert sorted(record.value or b"" for record in records) == sorted(record.value or b"" for record in RECORDS)
    assert len({record.partition for record in records}) > partitions * 0.9


def test_a_chunk_with_headers_goes_to_any_number_of_partitions(kafka: KafkaServer) -> None:
    """Records with headers are not appended in bulk."""
    topic = create_topic(kafka, 50)
    with contextlib.closing(KafkaSender(topic, topic.topic)) as sender:
        records = [record._replace(headers=(("name", b"value"),)) for record in RECORDS]
        assert sender.send(records) == [None] * len(records)


def test_a_sender_continues_when_its_topic_gets_more_partitions(kafka: KafkaServer) -> None:
    topic = create_topic(kafka, 3)
    with contextlib.closing(KafkaSender(topic, topic.topic)) as sender:
        assert not any(sender.send(RECORDS))
        with contextlib.closing(connect_admin(topic)) as admin:
            admin.create_partitions({topic.topic: NewPartitions(50)})
        await_leaders(topic, 50)
        for _ in range(3):
            assert not any(sender.send(RECORDS))
    with contextlib.closing(KafkaSender(topic, topic.topic)) as sender:
        assert not any(sender.send(RECORDS))
    with contextlib.closing(KafkaReader(topic, topic.topic)) as reader:
        records = list(reader.read())
    assert len(records) == 5 * len(RECORDS)
    assert len({record.partition for record in records}) > 45


@pytest.mark.parametrize("headers", [(), (("name", b"value"),)], ids=["in bulk", "one by one"])
@pytest.mark.parametrize(("codec", "number"), [("none", 0), ("gzip", 1), ("snappy", 2), ("lz4", 3), ("zstd", 4)])
def test_records_are_compressed_as_configured(
    kafka: KafkaServer, codec: Any, number: int, headers: tuple[tuple[str, bytes], ...]
) -> None:
    topic = create_topic(kafka, 1)
    records = [Record(b"key", b"%d" % n * 50, headers) for n in range(100)]
    with contextlib.closing(KafkaSender(dataclasses.replace(topic, compression=codec), topic.topic)) as sender:
        assert not any(sender.send(records))
    log = Path(kafka.command[-1]).with_name("data") / f"{topic.topic}-0" / f"{0:020}.log"
    assert MemoryRecords(log.read_bytes()).next_batch().compression_type == number
    with contextlib.closing(KafkaReader(topic, topic.topic)) as reader:
        assert [record.value for record in reader.read()] == [record.value for record in records]


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
def test_incompressible_records_are_accepted(kafka: KafkaServer, codec: Any) -> None:
    """The sender limits a batch to 1,000,000 bytes, the broker to 1,048,588."""
    topic = create_topic(kafka, 1)
    records = [Record(b"key", random.randbytes(60_000)) for _ in range(50)]
    with contextlib.closing(KafkaSender(dataclasses.replace(topic, compression=codec), topic.topic)) as sender:
        assert not any(sender.send(records))


def test_deleted_records_of_one_partition_do_not_affect_the_others(
    kafka: KafkaServer, topic: KafkaSettings, join: Callable[[], KafkaSource], produce: Callable[[list[Record]], None]
) -> None:
    """Records of one partition are deleted repeatedly, while fetched records of all partitions wait."""
    source, handler = join(), Recorder()
    source.subscribe(handler)
    polled: list[ReceivedRecord] = []
    for first in range(0, 12_000, 2000):
        produce([Record(b"key%d" % (n % 50), b"%d" % n) for n in range(first, first + 2000)])
        polled += poll_until(source, 300)
        kafka.delete_records(topic.topic, {1: -1})

    def all_are_read_or_lost() -> bool:
        polled.extend(source.poll(0.1))
        return len(polled) + sum(handler.lost.values()) >= 12_000

    eventually(all_are_read_or_lost)
    assert handler.lost.keys() == {1}
    assert len(polled) + handler.lost[1] == 12_000
    assert len({(record.partition, record.offset) for record in polled}) == len(polled)


def test_a_group_without_an_offset_logs_where_it_begins_if_records_are_gone(
    kafka: KafkaServer,
    topic: KafkaSettings,
    join: Callable[[], KafkaSource],
    produce: Callable[[list[Record]], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The group may be new, or it was away until Kafka deleted its offsets."""
    produce([Record(b"key", b"%d" % n) for n in range(20)])
    kafka.delete_records(topic.topic, dict.fromkeys(range(3), -1))
    produce([Record(b"key", b"20")])
    source = join()
    source.subscribe(Recorder())
    poll_until(source, 1)
    (line,) = [record for record in caplog.records if record.name == "common.kafka.source"]
    assert vars(line)["begins_at"] == 20


def test_a_topic_that_was_created_again_is_read_from_its_beginning(
    topic: KafkaSettings,
    kafka: KafkaServer,
    join: Callable[[], KafkaSource],
    produce: Callable[[list[Record]], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    source, handler = join(), Recorder()
    source.subscribe(handler)
    produce([Record(b"key", b"old") for _ in range(20)])
    poll_until(source, 20)
    create_again(kafka, topic)
    with contextlib.closing(KafkaSender(topic, topic.topic)) as sender:
        again = [Record(b"key", b"%d" % n) for n in range(3)]
        # A new topic has no leader at first.
        eventually(lambda: not any(sender.send(again)))
    assert [record.value for record in poll_until(source, 3)] == [b"0", b"1", b"2"]
    assert handler.heard[-1] == "jump to 0"
    assert sum(handler.lost.values()) == 0
    assert "Kafka has fewer records than were read: the topic was created again or truncated" in caplog.messages


def create_again(kafka: KafkaServer, settings: KafkaSettings) -> None:
    admin = connect_admin(settings)
    admin.delete_topics([settings.topic])
    eventually(lambda: missing_topics(admin, [settings.topic]), what="the topic's end")
    admin.close()
    kafka.create_topics(settings.topic)


def test_the_error_of_a_source_without_its_topic_says_what_to_do(kafka: KafkaServer, group: str) -> None:
    source = KafkaSource(kafka.settings(fresh_name("missing")), group)
    with pytest.raises(TopicError, match="does not exist: run "):
        source.connect()


def test_the_error_of_a_reader_without_its_topic_says_what_to_do(kafka: KafkaServer) -> None:
    settings = kafka.settings(fresh_name("missing"))
    with pytest.raises(TopicError, match="does not exist: run "):
        KafkaReader(settings, settings.topic)


def test_the_error_of_a_reader_without_a_broker_says_what_to_do() -> None:
    with pytest.raises(ReadError, match="start it, or set KAFKA_BROKERS"):
        KafkaReader(kafka_settings(f"127.0.0.1:{free_port()}", "topic"), "topic")


@pytest.fixture
def closing_at_once() -> Iterator[KafkaSettings]:
    """A server that closes each connection at once, like a proxy without its Kafka."""

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                listener.accept()[0].close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield kafka_settings(f"127.0.0.1:{listener.getsockname()[1]}", "topic")
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_a_server_that_closes_connections_at_once_is_reported_as_no_broker(closing_at_once: KafkaSettings) -> None:
    with pytest.raises(KafkaError):
        connect_admin(closing_at_once)
    with pytest.raises(KafkaError):
        connect_member(closing_at_once, "group")
    with pytest.raises(ReadError, match="No connection to Kafka"):
        KafkaReader(closing_at_once, "topic")
    assert isinstance(KafkaSender(closing_at_once, "topic").send([Record(b"key", b"value")])[0], KafkaError)


def test_a_broker_that_listens_is_reachable(topic: KafkaSettings) -> None:
    assert reachable(topic)


def test_a_broker_that_does_not_listen_is_not_reachable() -> None:
    assert not reachable(kafka_settings(f"127.0.0.1:{free_port()}", "topic"))


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
def test_a_broker_is_reached_on_its_address_of_ipv6(kafka_libs: Path, tmp_path: Path) -> None:
    server = KafkaServer(kafka_libs, tmp_path)
    with Path(server.command[-1]).open("a") as config:
        listeners = f"PLAINTEXT://[::]:{server.port},CONTROLLER://127.0.0.1:{free_port()}"
        config.write(f"\nlisteners={listeners}\nadvertised.listeners=PLAINTEXT://[::1]:{server.port}\n")
        config.write(f"controller.quorum.voters=1@{listeners.rpartition('/')[2]}\n")
    try:
        server.start()
        server.create_topics("events")
        settings = kafka_settings(f"[::1]:{server.port}", "events")
        assert reachable(settings)
        assert KafkaSender(settings, "events").send([Record(b"key", b"value")]) == [None]
        with contextlib.closing(KafkaReader(settings, "events")) as reader:
            assert [record.value for record in reader.read()] == [b"value"]
    finally:
        server.kill()
