"""Whatever the API accepts, MongoDB stores exactly as it was sent."""

import json
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pymongo
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from api.intake import accept_event
from common.errors import InvalidEventError
from common.events import EVENT_TYPES, decode
from common.settings import MongoSettings
from consumer.writer import MongoWriter
from tests.servers import MongoServer

# Rubbish is welcome: what the API refuses is not stored. Surrogates and NUL are among the characters.
texts = st.text(st.characters(), max_size=30)
scalars = st.one_of(texts, st.integers(-(2**65), 2**65), st.floats(), st.booleans(), st.none())
sent_events = st.fixed_dictionaries(
    {"customer_id": texts, "event_type": st.sampled_from(EVENT_TYPES)},
    optional={
        "timestamp": st.datetimes(timezones=st.timezones()).map(datetime.isoformat),
        "properties": st.dictionaries(st.one_of(texts, st.sampled_from(["a.b", "$a", "a$", "", "_id"])), scalars),
        "context": st.dictionaries(st.sampled_from(["device", "session_id", "ip", "user_agent"]), texts),
    },
)


@pytest.fixture(scope="module")
def where(mongo: MongoServer) -> MongoSettings:
    return mongo.settings()


@pytest.fixture(scope="module")
def writer(where: MongoSettings) -> Iterator[MongoWriter]:
    writer = MongoWriter(where)
    writer.ensure_indexes()
    yield writer
    writer.close()


@given(sent=sent_events)
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_accepted_is_stored_as_it_was_sent(
    sent: dict[str, Any], where: MongoSettings, writer: MongoWriter
) -> None:
    # The ids are ours: examples that share one would be duplicates.
    sent = {**sent, "event_id": uuid.uuid4().hex}
    try:
        accepted = accept_event(json.dumps(sent).encode(), datetime.now(UTC))
    except InvalidEventError:
        return
    assert writer.write([decode(accepted.record.value)]).stored == 1
    with pymongo.MongoClient[dict[str, Any]](where.uri, tz_aware=True) as client:
        stored = client[where.database][where.collection].find_one({"event_id": sent["event_id"]}) or {}
    for name in sent.keys() - {"timestamp"}:
        assert stored[name] == sent[name]
    if "timestamp" in sent:
        # BSON dates have milliseconds.
        moment = datetime.fromisoformat(sent["timestamp"]).astimezone(UTC)
        assert stored["timestamp"] == moment.replace(microsecond=moment.microsecond // 1000 * 1000)
