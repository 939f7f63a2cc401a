"""Which fields tell two events with the same id apart."""

from common.events import EventSchema
from consumer.writer import SAME

MAY_DIFFER = {
    "event_id": "it is what the two have in common",
    "timestamp": "a missing one is the time of receipt, which is another one at each attempt",
    "context": "SDKs fill it in again at each attempt",
}


def test_every_field_of_an_event_tells_two_events_apart_or_may_differ_between_attempts() -> None:
    assert {*SAME, *MAY_DIFFER} == set(EventSchema().fields)
    assert set(SAME).isdisjoint(MAY_DIFFER)
