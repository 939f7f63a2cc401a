"""The tail of a topic on a real broker, its follower in the console, and the lookup of events in MongoDB."""

from collections.abc import Iterator
from contextlib import closing

import pytest

from common.errors import TopicError
from common.kafka import KafkaSender, KafkaTail, ReceivedRecord, Record, connect_admin
from common.settings import KafkaSettings
from ops.console.follower import Follower
from ops.console.live import Live
from tests.contracts import fresh_name
from tests.servers import KafkaServer
from tests.waiting import eventually


@pytest.fixture
def topics(kafka: KafkaServer) -> KafkaSettings:
    return kafka.create_topics(fresh_name("events"))


@pytest.fixture
def sender(topics: KafkaSettings) -> Iterator[KafkaSender]:
    with closing(KafkaSender(topics, topics.topic)) as sender:
        yield sender


def send(sender: KafkaSender, count: int, key: bytes = b"alice") -> None:
    assert sender.send([Record(key, b'{"event_id":"%d"}' % n) for n in range(count)]) == [None] * count


def read(tail: KafkaTail, count: int) -> list[ReceivedRecord]:
    found: list[ReceivedRecord] = []
    eventually(lambda: len(found.extend(tail.poll(0.2)) or found) >= count, what=f"{count} records")  # type: ignore[func-returns-value]
    return found


def test_it_begins_shortly_before_the_end_and_follows(topics: KafkaSettings, sender: KafkaSender) -> None:
    send(sender, 20)
    with closing(KafkaTail(topics, topics.topic, last=5)) as tail:
        assert [record.value for record in read(tail, 5)] == [b'{"event_id":"%d"}' % n for n in range(15, 20)]
        send(sender, 1)
        assert [record.offset for record in read(tail, 1)] == [20]


def test_it_continues_at_the_positions_of_another_tail(topics: KafkaSettings, sender: KafkaSender) -> None:
    send(sender, 3)
    with closing(KafkaTail(topics, topics.topic, last=5)) as tail:
        read(tail, 3)
        positions = tail.positions
    send(sender, 8)
    with closing(KafkaTail(topics, topics.topic, positions, last=1)) as tail:
        assert [record.offset for record in read(tail, 8)] == list(range(3, 11))


def test_positions_of_a_topic_that_was_created_again_are_dropped(topics: KafkaSettings, sender: KafkaSender) -> None:
    send(sender, 3)
    with closing(KafkaTail(topics, topics.topic, dict.fromkeys(range(3), 1000), last=2)) as tail:
        assert len(read(tail, 2)) == 2


def test_it_skips_to_the_newest_and_returns_the_number_of_skipped_records(
    topics: KafkaSettings, sender: KafkaSender
) -> None:
    send(sender, 1200)
    with closing(KafkaTail(topics, topics.topic, last=1200)) as tail:
        first = read(tail, 1)
        left_out = tail.skip(10)
        rest = read(tail, 10)
    assert len(first) + left_out + len(rest) == 1200
    assert rest[-1].value == b'{"event_id":"1199"}'


def test_it_joins_no_group_and_commits_nothing(topics: KafkaSettings, sender: KafkaSender) -> None:
    send(sender, 1)
    with closing(KafkaTail(topics, topics.topic, last=5)) as tail:
        read(tail, 1)
        with closing(connect_admin(topics)) as admin:
            groups = [
                group[0] if isinstance(group, tuple) else group["group_id"] for group in admin.list_consumer_groups()
            ]
    assert [group for group in groups if not group or "pulse" in group] == []


def test_the_error_names_a_missing_topic(kafka: KafkaServer) -> None:
    name = fresh_name("missing")
    with pytest.raises(TopicError, match=f"Topic {name} does not exist"):
        KafkaTail(kafka.settings(name), name, last=1)


def test_a_follower_waits_for_its_topic_and_then_follows(kafka: KafkaServer) -> None:
    name = fresh_name("events")
    live = Live()
    follower = Follower(kafka.settings(name), name, live.take, last=5)
    follower.start()
    eventually(lambda: "does not exist" in (follower.problem or ""), what="the problem")
    topics = kafka.create_topics(name)
    with closing(KafkaSender(topics, name)) as sender:
        send(sender, 2)
        eventually(lambda: live.waiting_ids(5) == ["1", "0"], what="the events")
    assert follower.problem is None


def test_a_follower_under_load_passes_on_the_newest_and_the_number_of_the_others(
    topics: KafkaSettings, sender: KafkaSender
) -> None:
    send(sender, 3000)
    taken: list[ReceivedRecord] = []
    skipped: list[int] = []
    follower = Follower(topics, topics.topic, taken.extend, last=3000, most_ahead=50, on_skip=skipped.append)
    follower.start()
    eventually(lambda: len(taken) + sum(skipped) == 3000, what="all records")
    assert taken[-1].offset == 2999
    assert len(taken) <= 300


def test_a_poll_returns_at_most_the_given_number_of_records(topics: KafkaSettings, sender: KafkaSender) -> None:
    send(sender, 20)
    with closing(KafkaTail(topics, topics.topic, last=20)) as tail:
        first: list[ReceivedRecord] = []
        eventually(lambda: bool(first.extend(tail.poll(0.2, 7)) or first), what="a record")  # type: ignore[func-returns-value]
        assert len(first) == 7
