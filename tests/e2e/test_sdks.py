"""The SDKs for servers, as their makers publish them: all that they are given is stored, field by field, once.

Beside the API's own answers, a door in front of it gives those that the API gives rarely.
"""

import contextlib
import json
import math
from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import requests

from api.protocols.segment import CALLS
from tests.sdks.drivers import PROGRAMS, Door, Driver, Fault, Told
from tests.servers import KafkaServer, MongoServer, Pipeline
from tests.waiting import eventually

KEY = "key-of-the-shop"
GIVEN = (Path(__file__).parent.parent / "sdks" / "calls.json").read_text()
AT_ONCE = 1_000
IDS = {"userId": "user_id", "anonymousId": "anonymous_id", "previousId": "previous_id", "groupId": "group_id"}
TYPES = CALLS | {"Order Completed": "purchase", "Product Added": "add_to_cart"}
# Values that could not be stored, and what they become: docs/sdks.md, "What is mended".
MENDED = {"$set": "＄set", "$position": "＄position"}
PLAIN: dict[str, tuple[str, dict[str, Any]]] = {
    "segment_python": ("segment_python", {}),
    "segment_python_gzip": ("segment_python", {"gzip": True}),
    "rudderstack_python": ("rudderstack_python", {}),
    "segment_node": ("segment_node", {}),
    "rudderstack_node": ("rudderstack_node", {}),
    "segment_java": ("segment_java", {}),
    "cloudevents_binary": ("cloudevents_python", {"mode": "binary"}),
    "cloudevents_structured": ("cloudevents_python", {"mode": "structured"}),
    "cloudevents_batched": ("cloudevents_python", {"mode": "batched"}),
}
"""Clients that are given everything: their SDK, and their options."""
FAULTS = {
    "400": Fault(400),
    "401": Fault(401),
    "413": Fault(413),
    "429": Fault(429, retry_after=1),
    "500": Fault(500),
    "503": Fault(503),
    "answer lost": Fault(None),
}
REFUSALS = ("400", "401", "413")

Call = dict[str, Any]


def calls(client: str, sdk: str, more: int) -> list[Call]:
    """One call of each kind, and so many more; `context.call` tells them apart."""
    who = {"userId": f"{client}-ada", "timestamp": "2026-01-31T12:00:08.000+00:00", "event": "Counted"}
    numbers: list[Any] = list(range(more))
    if sdk in ("segment_python", "rudderstack_python"):
        # The others cannot say that in JSON.
        numbers += [math.nan, math.inf, 2**64]
    given: list[Call] = json.loads(GIVEN.replace("WHO", client))
    given += [{"call": "track", "message": {**who, "properties": {"number": number}}} for number in numbers]
    for number, call in enumerate(given):
        call["message"]["context"] = {**call["message"].get("context", {}), "call": number}
    return [as_cloudevent(call) for call in given] if sdk == "cloudevents_python" else given


def as_cloudevent(call: Call) -> Call:
    message = call["message"]
    attributes = {
        "type": message.get("event", message.get("name", call["call"])),
        "source": "https://shop.example/checkout",
        "subject": message.get("userId", message.get("anonymousId")),
        "time": message["timestamp"],
        "call": message["context"]["call"],
    }
    data = message.get("properties", message.get("traits", {}))
    return {"call": "send", "message": {"attributes": attributes, "data": data}}


class Stored(NamedTuple):
    """What clients were given, what their error callbacks told, and what is stored of each call."""

    pipeline: Pipeline
    given: dict[str, list[Call]]
    told: Told
    documents: dict[str, dict[int, list[dict[str, Any]]]]


@pytest.fixture(scope="module")
def broker(kafka_libs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServer]:
    """One that may be killed."""
    server = KafkaServer(kafka_libs, tmp_path_factory.mktemp("kafka"))
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="module")
def pipeline(broker: KafkaServer, mongo: MongoServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    running = Pipeline(broker, mongo, tmp_path_factory.mktemp("pipeline"), API_KEYS=f"shop={KEY}")
    running.start()
    yield running
    running.kill()


@pytest.fixture(scope="module")
def drivers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Driver]]:
    folder = tmp_path_factory.mktemp("drivers")
    with contextlib.ExitStack() as running:
        yield {sdk: running.enter_context(Driver(sdk, folder)) for sdk in PROGRAMS}


def documents_of(pipeline: Pipeline, clients: list[str]) -> dict[str, dict[int, list[dict[str, Any]]]]:
    """By client and call."""
    found: dict[str, dict[int, list[dict[str, Any]]]] = {client: defaultdict(list) for client in clients}
    for document in pipeline.documents():
        client = document["customer_id"].rpartition("-")[0]
        number = document["context"]["call"] if document["protocol"] == "segment" else document["extra"]["call"]
        if client in found:
            found[client][int(number)].append(document)
    return found


@pytest.fixture(scope="module")
def plain(pipeline: Pipeline, drivers: dict[str, Driver]) -> Stored:
    given = {}
    for client, (sdk, options) in PLAIN.items():
        more = 0 if client in ("cloudevents_binary", "cloudevents_structured") else AT_ONCE
        given[client] = calls(client, sdk, more)
        drivers[sdk].open(client, pipeline.url, KEY, options)
        drivers[sdk].call(client, given[client])
    told: Told = {}
    for driver in drivers.values():
        told |= driver.finish()
    pipeline.wait_until_stored(sum(map(len, given.values())))
    return Stored(pipeline, given, told, documents_of(pipeline, list(given)))


def kept(value: Any) -> Any:
    """A value as it is stored."""
    if isinstance(value, dict):
        return {MENDED.get(key, key): kept(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [kept(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@pytest.mark.parametrize("client", PLAIN)
def test_each_call_is_stored_once_and_no_error_is_told(plain: Stored, client: str) -> None:
    assert {number: len(found) for number, found in plain.documents[client].items()} == {
        number: 1 for number in range(len(plain.given[client]))
    }
    assert plain.told[client] == {}


@pytest.mark.parametrize("client", [client for client in PLAIN if "cloudevents" not in client])
def test_each_call_is_stored_as_it_was_given(plain: Stored, client: str) -> None:
    for number, given in enumerate(plain.given[client]):
        call, message, document = given["call"], given["message"], plain.documents[client][number][0]
        assert {ours: document.get(ours) for ours in IDS.values()} == {
            ours: message.get(theirs) for theirs, ours in IDS.items()
        }
        assert document["customer_id"] == message.get("userId", message.get("anonymousId"))
        name = message.get("event", message.get("name"))
        assert document.get("event_name") == name
        assert document["event_type"] == TYPES.get(name, TYPES.get(call, call))
        assert document.get("properties") == kept(message.get("properties")), call
        assert document.get("traits") == kept(message.get("traits")), call
        assert {key: document["context"].get(key) for key in message["context"]} == message["context"]
        assert document["timestamp"] == datetime.fromisoformat(message["timestamp"])
        assert message.get("integrations", {}).items() <= document["extra"]["integrations"].items()
        assert (document["protocol"], document["source"]) == ("segment", "shop")
