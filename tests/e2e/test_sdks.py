"""The published SDKs for servers: each of their calls is stored once, with all fields."""

import contextlib
import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import Any, NamedTuple

import pytest

from api.protocols.segment import CALLS
from common.errors import PulseError
from common.events import parse_timestamp
from loadtest import segment_client
from loadtest.journeys import named_journeys
from tests.sdks.calls import Call, calls, kept
from tests.sdks.doors import Door, Fault
from tests.sdks.drivers import PROGRAMS, Driver, Told
from tests.servers import KafkaServer, MongoServer, Pipeline
from tests.waiting import eventually

pytestmark = pytest.mark.timeout(300)

KEY = "key-of-the-shop"
AT_ONCE = 1_000


class Client(NamedTuple):
    """A client of an SDK: its options, and its number of calls in addition to one of each kind."""

    sdk: str
    options: Mapping[str, Any] = {}
    more: int = 0


CLIENTS = {
    "segment_python": Client("segment_python", more=AT_ONCE),
    "segment_python_gzip": Client("segment_python", {"gzip": True}),
    "rudderstack_python": Client("rudderstack_python", more=AT_ONCE),
    "segment_node": Client("segment_node", more=AT_ONCE),
    "rudderstack_node": Client("rudderstack_node", more=AT_ONCE),
    "segment_java": Client("segment_java", more=AT_ONCE),
    "cloudevents_binary": Client("cloudevents_python", {"mode": "binary"}),
    "cloudevents_structured": Client("cloudevents_python", {"mode": "structured"}),
    "cloudevents_batched": Client("cloudevents_python", {"mode": "batched"}, more=AT_ONCE),
}
SEGMENT = [name for name in CLIENTS if "cloudevents" not in name]
CLOUDEVENTS = [name for name in CLIENTS if "cloudevents" in name]
OPTIONS: dict[str, dict[str, Any]] = {
    "cloudevents_python": {"mode": "batched"},
    # The default is three retries in about a second: docs/sdks.md.
    "rudderstack_node": {"retryCount": 10},
}
REFUSALS = {"400": Fault(400), "413": Fault(413)}
FAULTS = {
    "429": Fault(429, retry_after=1),
    "500": Fault(500),
    "503": Fault(503),
    "answer_lost": Fault(None),
}
IDS = {"userId": "user_id", "anonymousId": "anonymous_id", "previousId": "previous_id", "groupId": "group_id"}
TYPES = CALLS | {"Order Completed": "purchase", "Product Added": "add_to_cart"}

Documents = dict[int, list[dict[str, Any]]]
"""The stored events of each call of a client."""


class Run(NamedTuple):
    """For each client: its calls, the errors that its callback received, and its stored events."""

    given: dict[str, list[Call]]
    told: Told
    stored: dict[str, Documents]


@pytest.fixture(scope="module")
def broker(kafka_libs: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServer]:
    """A broker that a test may kill."""
    server = KafkaServer(kafka_libs, tmp_path_factory.mktemp("kafka"))
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="module")
def pipeline(broker: KafkaServer, mongo: MongoServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    running = Pipeline(broker, mongo, tmp_path_factory.mktemp("pipeline"), API_KEYS=f"shop={KEY}")
    try:
        running.start()
        yield running
    finally:
        running.kill()


@pytest.fixture(scope="module")
def run(pipeline: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """All SDKs at once, directly to the API, and through proxies that fail once."""
    given = {name: calls(name, client.sdk, client.more) for name, client in CLIENTS.items()}
    with contextlib.ExitStack() as stack:
        drivers = start_drivers(stack, tmp_path_factory)

        ways = [(client.sdk, name, pipeline.url, KEY, client.options) for name, client in CLIENTS.items()]
        for sdk in PROGRAMS:
            options = OPTIONS.get(sdk, {})
            ways.append((sdk, f"{sdk}_401", pipeline.url, "another-key", options))
            for name, fault in (REFUSALS | FAULTS).items():
                door = stack.enter_context(Door(pipeline.url, fault))
                ways.append((sdk, f"{sdk}_{name}", door.url, KEY, options))

        def drive(sdk: str) -> Told:
            for of, name, url, key, options in ways:
                if of == sdk:
                    drivers[sdk].open(name, url, key, options)
                    drivers[sdk].call(name, given.setdefault(name, calls(name, sdk)))
            return drivers[sdk].finish()

        return finished(pipeline, given, stack.enter_context(ThreadPoolExecutor()).map(drive, PROGRAMS))


@pytest.fixture(scope="module")
def outage(run: Run, broker: KafkaServer, pipeline: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Kafka is unavailable while all SDKs send, and the API dies in the middle."""
    broker.kill()
    given = {f"{sdk}_outage": calls(f"{sdk}_outage", sdk, 320) for sdk in PROGRAMS}
    accepted, before = pipeline.api.accepted(), len(pipeline.documents())
    with contextlib.ExitStack() as stack:
        drivers = start_drivers(stack, tmp_path_factory)
        pool = stack.enter_context(ThreadPoolExecutor())
        for sdk, driver in drivers.items():
            driver.open(f"{sdk}_outage", pipeline.url, KEY, OPTIONS.get(sdk, {}))
        first = [
            pool.submit(driver.call, f"{sdk}_outage", given[f"{sdk}_outage"][:260]) for sdk, driver in drivers.items()
        ]
        for each in first:
            each.result()
        # Some SDKs wait for a full batch, such as Segment's for Java, with 250 events.
        eventually(lambda: pipeline.api.accepted() - accepted >= 230 * len(drivers), 60, "events of all SDKs")
        pipeline.api.kill()
        for sdk, driver in drivers.items():
            driver.call(f"{sdk}_outage", given[f"{sdk}_outage"][260:])
        ended = [pool.submit(driver.finish) for driver in drivers.values()]
        pipeline.api.start()
        told = [each.result() for each in ended]
    broker.start()
    return finished(pipeline, given, told, before)


def start_drivers(stack: contextlib.ExitStack, folders: pytest.TempPathFactory) -> dict[str, Driver]:
    folder = folders.mktemp("drivers")
    return {sdk: stack.enter_context(Driver(sdk, folder)) for sdk in PROGRAMS}


def finished(pipeline: Pipeline, given: dict[str, list[Call]], told_by: Iterable[Told], before: int = 0) -> Run:
    """The run, once all calls without an error are stored. `before`: the number of events stored earlier."""
    told: Told = {}
    for each in told_by:
        told |= each
    pipeline.wait_until_stored(before + sum(map(len, given.values())) - sum(map(len, told.values())), 200)
    stored: dict[str, Documents] = {name: defaultdict(list) for name in given}
    for document in pipeline.documents():
        number = document["extra" if document["protocol"] == "cloudevents" else "context"]["call"]
        of_client = stored.get(document["customer_id"].rpartition("-")[0])
        if of_client is not None:
            of_client[int(number)].append(document)
    return Run(given, told, stored)


def times_stored(run: Run, client: str) -> dict[int, int]:
    return {number: len(documents) for number, documents in run.stored[client].items()}


@pytest.mark.parametrize("client", CLIENTS)
def test_each_call_is_stored_once_without_an_error(run: Run, client: str) -> None:
    assert times_stored(run, client) == dict.fromkeys(range(len(run.given[client])), 1)
    assert run.told[client] == {}


@pytest.mark.parametrize("client", SEGMENT)
def test_each_call_is_stored_as_it_was_given(run: Run, client: str) -> None:
    sdk = CLIENTS[client].sdk
    for number, given in enumerate(run.given[client]):
        (document,), message = run.stored[client][number], given["message"]
        assert {theirs: document.get(ours) for theirs, ours in IDS.items()} == {name: message.get(name) for name in IDS}
        assert document["customer_id"] == message.get("userId", message.get("anonymousId"))
        name = message.get("event", message.get("name"))
        assert document.get("event_name") == name
        assert document["event_type"] == TYPES.get(name, TYPES[given["call"]])
        assert document.get("properties") == kept(message.get("properties"), sdk)
        assert document.get("traits") == kept(message.get("traits"), sdk)
        assert {key: document["context"][key] for key in message["context"]} == message["context"]
        assert document["timestamp"] == datetime.fromisoformat(message["timestamp"])
        assert message.get("integrations", {}).items() <= document["extra"].get("integrations", {}).items()
        assert (document["protocol"], document["source"]) == ("segment", "shop")


@pytest.mark.parametrize("client", CLOUDEVENTS)
def test_each_cloudevent_is_stored_as_it_was_given(run: Run, client: str) -> None:
    for number, given in enumerate(run.given[client]):
        (document,), attributes = run.stored[client][number], given["message"]["attributes"]
        assert document["customer_id"] == attributes["subject"]
        assert (document["event_type"], document["event_name"]) == ("custom", attributes["type"])
        assert document.get("properties") == kept(given["message"]["data"], client)
        assert document["timestamp"] == datetime.fromisoformat(attributes["time"])
        assert document["extra"]["source"] == attributes["source"]
        assert (document["protocol"], document["source"]) == ("cloudevents", "shop")


@pytest.mark.parametrize("sdk", PROGRAMS)
@pytest.mark.parametrize("refusal", [*REFUSALS, "401"])
def test_refused_calls_are_reported_and_the_others_stored_once(run: Run, sdk: str, refusal: str) -> None:
    client = f"{sdk}_{refusal}"
    refused = run.told[client].keys()
    assert len(refused) == len(run.given[client]) if refusal == "401" else refused
    assert times_stored(run, client) == dict.fromkeys(set(range(len(run.given[client]))) - refused, 1)


@pytest.mark.parametrize("sdk", PROGRAMS)
@pytest.mark.parametrize("fault", FAULTS)
def test_calls_that_fail_at_first_are_stored_once_without_an_error(run: Run, sdk: str, fault: str) -> None:
    client = f"{sdk}_{fault}"
    assert times_stored(run, client) == dict.fromkeys(range(len(run.given[client])), 1)
    assert run.told[client] == {}


@pytest.mark.parametrize("sdk", PROGRAMS)
def test_calls_during_an_outage_and_a_restart_are_stored_once_without_an_error(outage: Run, sdk: str) -> None:
    client = f"{sdk}_outage"
    assert times_stored(outage, client) == dict.fromkeys(range(len(outage.given[client])), 1)
    assert outage.told[client] == {}


def test_segments_sdk_stores_the_same_events_of_the_seed(
    outage: Run, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the outage, which restarts the API."""
    monkeypatch.setenv("API_KEYS", f"shop={KEY}")
    journeys = named_journeys("seed-by-sdk", datetime.now(UTC), random.Random(1))
    events = {event["event_id"]: event for event in chain.from_iterable(journeys)}
    accepted = [ids for _, ids in segment_client.send(pipeline.url, events.values())]
    assert set().union(*accepted) == set(events)
    with pipeline.events() as stored:
        of_these = {"event_id": {"$in": list(events)}}
        eventually(lambda: stored.count_documents(of_these) == len(events), 60, "the seed stored", every=0.5)
        for document in stored.find(of_these):
            sent = events[document["event_id"]]
            assert abs(document["timestamp"] - parse_timestamp(sent.pop("timestamp"))) < timedelta(milliseconds=1)
            sent.setdefault("user_id", None if "anonymous_id" in sent else sent["customer_id"])
            del document["context"]["library"]
            assert {name: document.get(name) for name in sent} == sent


def test_a_refused_seed_is_an_error_with_the_reason(
    outage: Run, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("API_KEYS", "shop=another-key")
    journeys = named_journeys("refused", datetime.now(UTC), random.Random(1))
    with pytest.raises(PulseError, match=r"did not take a batch: .*unauthorized.*\(401\)"):
        list(segment_client.send(pipeline.url, chain.from_iterable(journeys)))
