"""Every event that the API accepts goes through Kafka and is stored in MongoDB exactly as sent."""

import json
import uuid
from collections.abc import Iterator
from typing import Any

import pymongo
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.event_json import decode
from common.kafka import KafkaSender, KafkaSource
from consumer.writer import MongoWriter
from tests import sent
from tests.apps import build_app, take_accepted
from tests.contracts import Recorder, fresh_name, poll_until
from tests.fakes import FakeBroker
from tests.servers import KafkaServer, MongoServer


class Way:
    """The steps from the API's app, without a process, through a real Kafka into a real database."""

    def __init__(self, kafka: KafkaServer, mongo: MongoServer) -> None:
        self.app = build_app(FakeBroker())
        settings = kafka.create_topics(fresh_name("events"))
        self.sender = KafkaSender(settings, settings.topic)
        self.source = KafkaSource(settings, fresh_name("group"))
        self.source.connect()
        self.source.subscribe(Recorder())
        where = mongo.settings()
        self.writer = MongoWriter(where)
        self.writer.ensure_indexes()
        self.client = pymongo.MongoClient[dict[str, Any]](where.uri, tz_aware=True)
        self.stored = self.client[where.database][where.collection]

    def go(self, events: list[Any]) -> dict[str, dict[str, Any]]:
        """Post a partial batch; returns its stored events by event_id."""
        body = json.dumps({"events": events}).encode()
        self.app.test_client().post("/api/v1/track/batch?partial=true", data=body, content_type="application/json")
        accepted = take_accepted(self.app)
        assert self.sender.send([event.record for event in accepted]) == [None] * len(accepted)
        received = poll_until(self.source, len(accepted)) if accepted else []
        if received:
            assert self.writer.write([decode(record.value) for record in received]).stored == len(accepted)
        found = self.stored.find({"event_id": {"$in": [event.event_id for event in accepted]}})
        return {document["event_id"]: document for document in found}

    def close(self) -> None:
        self.sender.close()
        self.source.close()
        self.writer.close()
        self.client.close()


@pytest.fixture(scope="module")
def way(kafka: KafkaServer, mongo: MongoServer) -> Iterator[Way]:
    way = Way(kafka, mongo)
    yield way
    way.close()


# A hundred batches through real servers take longer than the default.
@pytest.mark.timeout(300)
@given(events=st.lists(sent.things, min_size=1, max_size=20))
def test_every_accepted_event_is_stored_as_sent(way: Way, events: list[Any]) -> None:
    # Each id begins with a UUID, since examples with the same id would be duplicates.
    events = [
        {**event, "event_id": f"{uuid.uuid4().hex}{event.get('event_id', '')}"} if isinstance(event, dict) else event
        for event in events
    ]
    stored = way.go(events)
    for event in events:
        if isinstance(event, dict) and event["event_id"] in stored:
            assert sent.is_kept(event, stored[event["event_id"]], microseconds=False)
