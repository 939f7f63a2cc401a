"""Where is my event? Finds every place that has an event id or a customer, with times."""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import Any

from pymongo.errors import PyMongoError

from common.errors import PulseError
from common.kafka import KafkaError, KafkaReader
from common.settings import KafkaSettings
from ops.console.letters import Letters
from ops.console.live import Event, Live, iso, moment, of_kafka
from ops.console.refused import Refused
from ops.console.store import Store, explained

LONGEST_QUERY = 256
_SCAN_RECORDS = 5000
"""Of each partition, the newest: looked through for what is in Kafka and not yet stored."""
_SCAN_SECONDS = 5.0
_MOST_PLACES = 100
_IN_ORDER = ("unknown", "refused", "accepted", "in_kafka", "dead_letter", "stored")
_REASONS = (
    "It was refused: the sender got a 4xx answer. The page Refused keeps at most 10 per second and worker, for a day.",
    "It was sent elsewhere: another address, another environment, or another write key than you think.",
    "It never left the sender: an ad blocker, a page that closed too early, a queue that was not flushed.",
    "Its id or customer differs in upper and lower case, or in spaces.",
    "It was accepted and waits in the API's journal: the box Accepted shows how many do.",
    "It was deleted: MONGO_TTL_DAYS is over, or the customer was forgotten.",
)


class Search:
    """Queries all sources. Thread-safe."""

    def __init__(self, settings: KafkaSettings, live: Live, store: Store, letters: Letters, refused: Refused) -> None:
        self._settings = settings
        self._live = live
        self._store = store
        self._letters = letters
        self._refused = refused

    def find(self, wanted: str) -> dict[str, Any]:
        """All places, the oldest first; `state` is the furthest of them. Blocks some seconds.

        `unasked` names the sources that could not be queried, and why: without them, the event may still exist.
        """
        places: list[dict[str, Any]] = []
        unasked: dict[str, str] = {}
        seen = {(event.partition, event.offset): _seen_live(event) for event in self._live.find(wanted)}
        try:
            for document in self._store.find(wanted):
                places += _of_document(document, self._live)
        except PyMongoError as error:
            unasked["MongoDB"] = explained(error)
        known = {(place["event_id"], place["state"]) for place in places}
        try:
            if not places and not seen:
                seen = self._in_kafka(wanted)
            places += [_of_letter(letter) for letter in self._letters.find(wanted)]
        except (PulseError, KafkaError, OSError) as error:
            unasked["Kafka"] = f"Kafka does not answer: {str(error) or repr(error)}"
        for found in seen.values():
            places += [place for place in found if (place["event_id"], place["state"]) not in known]
        places += [_of_refused(each) for each in self._refused.find(wanted)]
        places.sort(key=lambda place: (place["at"] or place.get("accepted_at") or "", _IN_ORDER.index(place["state"])))
        del places[:-_MOST_PLACES]
        state = max((place["state"] for place in places), key=_IN_ORDER.index, default="unknown")
        if not places:
            places = [{"state": "unknown", "event_id": None, "customer_id": None, "at": None}]
        reasons = _REASONS if state == "unknown" else ()
        return {"q": wanted, "state": state, "places": places, "reasons": reasons, "unasked": unasked}

    def _in_kafka(self, wanted: str) -> dict[tuple[int, int], list[dict[str, Any]]]:
        """Its places among the newest records of the topic."""
        text = json.dumps(wanted, ensure_ascii=False).encode(errors="surrogatepass")
        found: dict[tuple[int, int], list[dict[str, Any]]] = {}
        with closing(KafkaReader(self._settings, self._settings.topic)) as reader:
            first = {number: max(0, end - _SCAN_RECORDS) for number, end in reader.ends.items()}
            until = time.monotonic() + _SCAN_SECONDS
            for record in reader.read(first):
                if text in (record.value or b""):
                    event = _decoded(record.value)
                    if wanted in (event.get("event_id"), event.get("customer_id")):
                        place = {"partition": record.partition, "offset": record.offset}
                        times = event.get("received_at"), iso(of_kafka(record.timestamp_ms))
                        found[record.partition, record.offset] = list(_accepted_and_in_kafka(event, place, *times))
                if time.monotonic() > until:
                    break
        return found


def _accepted_and_in_kafka(
    event: Mapping[str, Any], place: Mapping[str, Any], accepted_at: str | None, in_kafka_at: str | None
) -> Iterator[dict[str, Any]]:
    named = {name: event.get(name) for name in ("event_id", "customer_id", "event_type", "event_name")}
    yield {"state": "accepted", **named, "at": iso(moment(accepted_at))}
    yield {"state": "in_kafka", **named, "at": in_kafka_at, **place}


def _seen_live(event: Event) -> list[dict[str, Any]]:
    place = {"partition": event.partition, "offset": event.offset}
    found = list(_accepted_and_in_kafka(event.head, place, event.head["received_at"], iso(event.in_kafka_at)))
    if event.state == "stored" and not event.duplicate:
        found.append({**found[0], "state": "stored", "at": iso(event.stored_at)})
    return found


def _of_document(document: Mapping[str, Any], live: Live) -> Iterator[dict[str, Any]]:
    named = {name: document.get(name) for name in ("event_id", "customer_id", "event_type", "event_name")}
    received_at = iso(document.get("received_at"))
    yield {"state": "accepted", **named, "at": received_at}
    kafka = document.get("kafka")
    if isinstance(kafka, Mapping):
        place: dict[str, Any] = {"partition": kafka.get("partition"), "offset": kafka.get("offset")}
        # The document does not have the time of its arrival in Kafka.
        event = live.get(place["partition"], place["offset"])
        in_kafka_at = iso(event.in_kafka_at) if event else None
        yield {"state": "in_kafka", **named, "at": in_kafka_at, "accepted_at": received_at, **place}
    yield {"state": "stored", **named, "at": iso(document.get("processed_at"))}


def _of_letter(letter: Mapping[str, Any]) -> dict[str, Any]:
    named = {"event_id": None, "customer_id": letter["key"], "event_type": letter["event_type"]}
    more = {name: letter[name] for name in ("letter", "reason", "partition", "offset", "replayed_at")}
    return {"state": "dead_letter", **named, "at": letter["time"], **more}


def _of_refused(each: Mapping[str, Any]) -> dict[str, Any]:
    more = {name: each.get(name) for name in ("status", "reason", "message", "request_id")}
    named = {"event_id": None, "customer_id": None}
    return {"state": "refused", **named, "at": each.get("refused_at"), **more}


def _decoded(value: bytes | None) -> Mapping[str, Any]:
    try:
        event = json.loads(value or b"")
    except (ValueError, RecursionError):
        return {}
    return event if isinstance(event, dict) else {}
