"""docs/queries.md: each query returns the right answer by the index on the page; the examples for mongosh are equal."""

import ast
import json
import random
import re
import shutil
import subprocess
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import Any, NamedTuple

import pymongo
import pytest
from bson import json_util
from pymongo.monitoring import CommandFailedEvent, CommandListener, CommandStartedEvent, CommandSucceededEvent

from common.events import parse_timestamp
from consumer.writer import MongoWriter
from loadtest.client import Event
from loadtest.journeys import generated_journeys, named_journeys
from tests import ROOT
from tests.servers import MongoServer
from tests.unavailable import unavailable

PAGE = (ROOT / "docs" / "queries.md").read_text()
RUN = "seed-818650a811c6"
QUESTIONS = (
    "An event by its id",
    "A customer's journey",
    "A visitor before and after signing in",
    "Who an anonymous visitor was",
    "Yesterday's purchases, by customer, with the products",
    "Revenue by day",
    "A funnel",
    "Events by name",
)
SCANNED = ("Who an anonymous visitor was", "A funnel", "Events by name")
"""SecantusDB scans all events for these, as the page says; MongoDB uses the first field of an index."""
END_OF_TIME = datetime.max.replace(tzinfo=UTC)
TODAY = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def section(title: str) -> str:
    return PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def block(title: str, language: str) -> str:
    (found,) = re.findall(rf"^```{language}\n(.*?)^```", section(title), re.MULTILINE | re.DOTALL)
    return str(found)


def test_every_question_of_the_page_is_asked() -> None:
    titles = re.findall(r"^## (.+)$", PAGE, re.MULTILINE)
    assert [title for title in titles if title not in ("Where to type", "Is a query fast?")] == list(QUESTIONS)


class Commands(CommandListener):
    """Records the commands to the server."""

    def __init__(self) -> None:
        self.reads: list[dict[str, Any]] = []

    def started(self, event: CommandStartedEvent) -> None:
        if event.command_name in ("find", "aggregate", "distinct"):
            self.reads.append(
                {name: value for name, value in event.command.items() if name[0] != "$" and name != "lsid"}
            )

    def succeeded(self, event: CommandSucceededEvent) -> None: ...

    def failed(self, event: CommandFailedEvent) -> None: ...


class Answer(NamedTuple):
    value: Any
    commands: list[dict[str, Any]]


@dataclass(frozen=True)
class Shop:
    """A database with what customers did yesterday, today and last week."""

    uri: str
    database: str
    events: list[Event]

    def ask(self, title: str) -> Answer:
        """The answer of the page's Python code, and its commands to MongoDB."""
        commands = Commands()
        with pymongo.MongoClient[dict[str, Any]](self.uri, tz_aware=True, event_listeners=[commands]) as client:
            names: dict[str, Any] = {}
            exec(block("Where to type", "python"), names)
            names["events"].database.client.close()
            names["events"] = client[self.database].events
            *statements, last = ast.parse(block(title, "python")).body
            assert isinstance(last, ast.Expr)
            exec(compile(ast.Module(statements, []), "docs/queries.md", "exec"), names)
            value = eval(compile(ast.Expression(last.value), "docs/queries.md", "eval"), names)
        return Answer(value, commands.reads)

    def orders(self, since: datetime, until: datetime = END_OF_TIME) -> list[Event]:
        return [
            event
            for event in self.events
            if event.get("event_name") == "Order Completed" and since <= event["timestamp"] < until
        ]


@pytest.fixture(scope="module")
def shop(mongo: MongoServer) -> Shop:
    rng = random.Random(1)
    journeys = chain(
        named_journeys(RUN, TODAY - timedelta(hours=12), rng),
        generated_journeys(15, "yesterday", TODAY - timedelta(hours=1), rng),
        generated_journeys(15, "today", TODAY + timedelta(hours=1), rng),
        generated_journeys(15, "long-ago", TODAY - timedelta(days=20), rng),
    )
    events: list[Event] = []
    for offset, event in enumerate(chain.from_iterable(journeys)):
        when = parse_timestamp(event["timestamp"])
        when = when.replace(microsecond=when.microsecond // 1000 * 1000)  # MongoDB's precision
        events.append({**event, "timestamp": when, "received_at": when, "kafka": {"partition": 0, "offset": offset}})
    settings = mongo.settings()
    writer = MongoWriter(settings)
    writer.ensure_indexes()
    writer.complete_indexes()
    writer.write(events)
    writer.close()
    return Shop(settings.uri, settings.database, events)


# ── The answers ──


def test_an_event_is_found_by_its_id(shop: Shop) -> None:
    value = shop.ask("An event by its id").value
    assert (value["customer_id"], value["event_name"]) == ("alice", "Order Completed")


def test_the_document_on_the_page_is_the_result_of_the_query(shop: Shop) -> None:
    shown = json_util.loads(block_before_the_questions())
    stored = shop.ask("An event by its id").value
    assert shown["properties"] == stored["properties"]
    assert shown.keys() == stored.keys() - {"_id"}


def block_before_the_questions() -> str:
    (found,) = re.findall(r"^```json\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    return str(found)


def test_a_journey_has_all_events_of_a_customer_in_order(shop: Shop) -> None:
    value = shop.ask("A customer's journey").value
    did = [(event["timestamp"], event["event_type"]) for event in shop.events if event["customer_id"] == "alice"]
    assert [(event["timestamp"], event["event_type"]) for event in value] == did


def test_a_visitors_events_before_and_after_signing_in_are_found(shop: Shop) -> None:
    value = shop.ask("A visitor before and after signing in").value
    assert [event["customer_id"] for event in value] == [f"anonymous-{RUN}-chloe", *["chloe"] * (len(value) - 1)]
    assert [event["event_name"] for event in value[2:]] == ["Product Added", "Product Added", "Order Completed"]


def test_the_user_id_of_an_anonymous_visitor_is_found(shop: Shop) -> None:
    assert [event["user_id"] for event in shop.ask("Who an anonymous visitor was").value] == ["chloe"]


def test_purchases_have_their_line_items(shop: Shop) -> None:
    spent: Counter[str] = Counter()
    bought: dict[str, Counter[str]] = defaultdict(Counter)
    for order in shop.orders(TODAY - timedelta(days=1), TODAY):
        for product in order["properties"]["products"]:
            spent[order["customer_id"]] += product["price"] * product["quantity"]
            bought[order["customer_id"]][product["name"]] += product["quantity"]
    value = shop.ask("Yesterday's purchases, by customer, with the products").value
    assert {row["_id"]: row["spent"] for row in value} == pytest.approx(dict(spent))
    assert {
        row["_id"]: Counter({item["name"]: item["quantity"] for item in row["products"]}) for row in value
    } == bought
    assert len(value) > 3


def test_revenue_is_that_of_each_day(shop: Shop) -> None:
    days: Counter[datetime] = Counter()
    for order in shop.orders(TODAY - timedelta(days=30)):
        days[order["timestamp"].replace(hour=0, minute=0, second=0, microsecond=0)] += order["properties"]["total"]
    value = shop.ask("Revenue by day").value
    assert {row["_id"]["day"]: row["revenue"] for row in value} == pytest.approx(dict(days))
    assert len(value) == 3


def test_a_funnel_counts_customers_by_their_steps_in_order(shop: Shop) -> None:
    steps = ("Product Viewed", "Product Added", "Checkout Started", "Order Completed")
    people: dict[str, dict[str, datetime]] = defaultdict(dict)
    for event in shop.events:
        if event.get("event_name") in steps and event["timestamp"] >= TODAY - timedelta(days=7):
            people[event.get("anonymous_id") or event["customer_id"]].setdefault(
                event["event_name"], event["timestamp"]
            )
    taken = [steps_taken([first.get(step) for step in steps]) for first in people.values()]
    expected = [sum(number > step for number in taken) for step in range(len(steps))]
    (value,) = shop.ask("A funnel").value
    assert [value[step] for step in ("viewed", "added", "began", "bought")] == expected
    assert expected[0] > expected[1] > expected[2] >= expected[3] > 0


def steps_taken(times: list[datetime | None]) -> int:
    """The number of steps, from the first on, whose first times are in order."""
    before = datetime.min.replace(tzinfo=UTC)
    for number, time in enumerate(times):
        if time is None or time <= before:
            return number
        before = time
    return len(times)


def test_names_are_counted(shop: Shop) -> None:
    today = Counter(
        event["event_name"] for event in shop.events if "event_name" in event and event["timestamp"] >= TODAY
    )
    assert {row["_id"]: row["events"] for row in shop.ask("Events by name").value} == today


# ── Indexes ──


@pytest.mark.parametrize("title", QUESTIONS)
def test_the_query_uses_the_index_that_the_page_names(shop: Shop, title: str) -> None:
    (named,) = set(re.findall(r"[Uu]ses? (?:the index )?`(\S+)`", section(title)))
    commands = shop.ask(title).commands
    assert commands
    with pymongo.MongoClient[dict[str, Any]](shop.uri) as client:
        for command in commands:
            plan = client[shop.database].command("explain", command, verbosity="queryPlanner")
            used = set(values_of(plan, "indexName"))
            if title in SCANNED:
                wanted = command["filter"] if "filter" in command else command["pipeline"][0]["$match"]
                assert (used, next(iter(wanted))) == (set(), named.split("_1_")[0])
            else:
                assert used == {named}


def values_of(plan: Any, wanted: str) -> Iterator[Any]:
    """The values of all fields with this name, at any depth."""
    if isinstance(plan, dict):
        for name, value in plan.items():
            if name == wanted:
                yield value
            yield from values_of(value, wanted)
    elif isinstance(plan, list):
        for value in plan:
            yield from values_of(value, wanted)


def test_the_page_has_every_index(shop: Shop) -> None:
    listed = re.findall(r"^\| `(\S+)` \|", section("Is a query fast?"), re.MULTILINE)
    with pymongo.MongoClient[dict[str, Any]](shop.uri) as client:
        there = client[shop.database].events.index_information()
    assert {*listed} == {*there, "received_at_1"} - {"_id_"}


# ── mongosh ──

RECORDER = """
const asked = [];
const note = (question) => (asked.push(question), question);
const db = {events: {
  findOne: (filter) => note({filter}),
  find: (filter, projection) => {
    const question = note({filter, projection});
    return {sort: (sort) => Object.assign(question, {sort})};
  },
  distinct: (key, query) => (note({key, query}), ["anonymous-seed-818650a811c6-chloe"]),
  aggregate: (pipeline) => note({pipeline}),
}};
"""
"""Replaces mongosh, which is a large package: records the queries."""


@pytest.mark.parametrize("title", QUESTIONS)
def test_the_example_for_mongosh_is_the_same_query(shop: Shop, title: str) -> None:
    if shutil.which("node") is None:
        unavailable("node is missing: Debian's package nodejs has it")
    script = "\n".join(
        (RECORDER, block("Where to type", "js"), block(title, "js"), "console.log(JSON.stringify(asked));")
    )
    done = subprocess.run(["node", "--eval", script], capture_output=True, text=True, timeout=30, check=True)
    parts = ("filter", "projection", "sort", "key", "query", "pipeline")
    asked = [{part: command[part] for part in parts if part in command} for command in shop.ask(title).commands]
    assert json.loads(done.stdout) == json.loads(json.dumps(asked, default=as_in_js))


def as_in_js(moment: datetime) -> str:
    return moment.replace(tzinfo=UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
