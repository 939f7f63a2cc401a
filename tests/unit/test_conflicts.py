"""The fields that must be equal in two events with the same id."""

from common.events import EventSchema
from consumer.writer import SAME

MAY_DIFFER = {
    "event_id": "both have the same id",
    "timestamp": "a missing timestamp becomes the time of receipt, which differs at each attempt",
    "context": "SDKs fill in the context again at each attempt",
}


def test_every_field_is_compared_or_may_differ_between_attempts() -> None:
    assert {*SAME, *MAY_DIFFER} == set(EventSchema().fields)
    assert set(SAME).isdisjoint(MAY_DIFFER)
