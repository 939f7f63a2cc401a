"""The sample shoppers send valid events in a plausible order."""

import json
import random
from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import groupby

import pytest

from common.event_json import load_batch
from common.events import EVENT_TYPES, MAX_BATCH_EVENTS, parse_timestamp
from loadtest.client import Event, chunks
from loadtest.journeys import generated_journeys, named_journeys
from loadtest.seed import outcome

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def named(run: str = "run") -> list[list[Event]]:
    return list(named_journeys(run, NOW, random.Random(1)))


def generated(count: int = 300, run: str = "run") -> list[list[Event]]:
    return list(generated_journeys(count, run, NOW, random.Random(1)))


def test_three_named_customers_make_twenty_events_of_every_type_that_a_shop_has() -> None:
    events = [event for journey in named() for event in journey]
    assert len(events) == 20
    assert [journey[-1]["customer_id"] for journey in named()] == ["alice", "ben", "chloe"]
    assert {event["event_type"] for event in events} == set(EVENT_TYPES) - {"screen", "group", "alias"}


@pytest.mark.parametrize("journeys", [named(), generated()], ids=["named", "generated"])
class TestEveryJourney:
    def test_obeys_the_rules_of_the_api(self, journeys: list[list[Event]]) -> None:
        for batch in chunks((event for journey in journeys for event in journey), MAX_BATCH_EVENTS):
            _, errors = load_batch(json.dumps({"events": batch}).encode())
            assert errors == {}

    def test_has_ids_of_its_own(self, journeys: list[list[Event]]) -> None:
        ids = [event["event_id"] for journey in journeys for event in journey]
        assert len(set(ids)) == len(ids)

    def test_is_in_order_of_time_and_ends_about_now(self, journeys: list[list[Event]]) -> None:
        for journey in journeys:
            times = [parse_timestamp(event["timestamp"]) for event in journey]
            assert times == sorted(set(times))
            assert NOW - timedelta(minutes=10) <= times[-1] <= NOW

    def test_pays_for_the_items_in_the_cart(self, journeys: list[list[Event]]) -> None:
        orders = 0
        for journey in journeys:
            cart = Counter(event["properties"]["name"] for event in journey if event["event_type"] == "add_to_cart")
            for order in (event["properties"] for event in journey if event["event_type"] == "purchase"):
                orders += 1
                items = order["products"]
                assert {item["name"]: item["quantity"] for item in items} == cart
                assert order["total"] == round(sum(item["price"] * item["quantity"] for item in items), 2)
        assert orders

    def test_belongs_to_the_customer_from_the_sign_in(self, journeys: list[list[Event]]) -> None:
        signed_in = 0
        for journey in journeys:
            *before, after = (list(events) for _, events in groupby(journey, lambda event: event["customer_id"]))
            if before:
                signed_in += 1
                assert [event["customer_id"] for event in before[0]] == [journey[0]["anonymous_id"]] * len(before[0])
                assert (after[0]["event_type"], after[0]["user_id"]) == ("identify", after[0]["customer_id"])
                assert {event["anonymous_id"] for event in journey} == {journey[0]["anonymous_id"]}
        assert signed_in

    def test_stays_on_one_device_in_one_session(self, journeys: list[list[Event]]) -> None:
        for journey in journeys:
            assert all(event["context"] == journey[0]["context"] for event in journey)


def test_generates_the_requested_number_of_customers() -> None:
    assert len({journey[0]["customer_id"] for journey in generated(7)}) == 7


def test_the_same_seed_makes_the_same_shoppers() -> None:
    assert generated() == generated()


def test_another_run_shares_no_ids() -> None:
    first, second = ({event["event_id"] for journey in named(run) for event in journey} for run in ("a", "b"))
    assert not first & second


def test_the_outcomes_of_the_three_named_journeys() -> None:
    assert [outcome(journey) for journey in named()] == [
        "bought 2 for 208.40 EUR",
        "left in the cart: Ridge tent for two",
        "bought 2 for 25.80 EUR",
    ]


def test_the_outcome_of_a_journey_without_a_cart() -> None:
    assert outcome(named()[0][:3]) == "only looked"
