"""docs/limits.md has the limits of the code."""

import re
from collections.abc import Iterator

import pytest

from api import faults, producer, responses
from api.journal import folders, journal
from api.protocols import conversion, paths
from api.server import connection
from api.server import worker as server
from common import event_json, events, json_values, kafka, settings
from common.environment import variables
from common.kafka import client
from consumer import buffer, forgotten, policy, watchdog, writer
from consumer import health as consumer_health
from consumer.dlq import __main__ as dlq_tool
from ops import settings_page
from tests import ROOT

PAGE = ROOT / "docs" / "limits.md"
KIB, MIB, GIB = 1024, 1024**2, 1024**3


def rows() -> dict[str, tuple[str, str]]:
    """For each row of the page: the default and the setting."""
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.read_text().splitlines() if "|" in line
    ]
    return {row[0]: (row[1], row[2].strip("`")) for row in cells if row[0] not in {"What", "---"}}


ROWS = rows()

CODE = {
    "connections of a worker": (server._OTHER_DESCRIPTORS, 100),
    "a request, from its first byte to its last": (server.REQUEST_SECONDS, 30),
    "an answer that the client does not take": (server.SEND_SECONDS, 10),
    "closing after the last answer": (server.LEAVE_SECONDS, 2),
    "half-sent bodies of a worker, together": (server._MOST_HELD_BYTES, 64 * MIB),
    "of its answers, what a client gets in a turn of the loop": (server._TURN_BYTES, 128 * KIB),
    "the head of a request": (connection.MAX_HEAD_BYTES, 64 * KIB),
    "a body with one event": (events.MAX_EVENT_BYTES, 64 * KIB),
    "a body with a batch": (events.MAX_BATCH_BYTES, 1 * MIB),
    "a body with a batch of an SDK": (paths.MAX_SDK_BATCH_BYTES, 4.5 * MIB),
    "arrays and objects in a body of an SDK": (paths.MAX_NESTED, 400_000),
    "messages in a batch of an SDK": (paths.MAX_MESSAGES, 2_500),
    "a message of an SDK": (events.MAX_EVENT_BYTES, 64 * KIB),
    "the events of an SDK's batch, with what it says for all": (conversion.MAX_CONVERTED_BYTES, 9 * MIB),
    "a chunked body": (connection.MAX_CHUNKS, 8_192),
    "events in a batch": (events.MAX_BATCH_EVENTS, 100),
    "an event": (events.MAX_EVENT_BYTES, 64 * KIB),
    "fields of an event, of a batch": (events.MAX_FIELDS, 32),
    "keys of an event's objects, together": (json_values.MAX_KEYS, 1_000),
    "objects and arrays in an event": (json_values.MAX_INNER, 1_000),
    "objects and arrays in a batch": (event_json.MAX_INNER_OF_BATCH, 100_000),
    "levels of an event's objects": (json_values.MAX_LEVELS, 16),
    "faults in an event's objects": (json_values._MOST_FAULTS, 100),
    "faults that are looked at in a batch": (events._MOST_FAULTS, 1_000),
    "errors in an answer": (faults._MOST_TOLD_BYTES, 8 * KIB),
    "faults in a log line": (faults._MOST_LOGGED, 20),
    "free disk below the journal": (journal._SPARE_DISK_BYTES, 512 * KIB),
    "what the producer takes at once": (producer._CHUNK_EVENTS, 2_000),
    "a batch of records for Kafka": (kafka.MAX_RECORD_BATCH_BYTES, 1_000_000),
    "a stop: answering, then sending what waits": (server.STOP_SECONDS, 5),
    "reading a journal through at the start": (folders._CHECK_TIMEOUT, 300),
    "records of a poll": (client.MAX_POLL_RECORDS, 500),
    "a fetch from a broker": (client._MAX_FETCH_BYTES, 8 * MIB),
    "dead letters among the last 1,000 records": (policy.DeathLimit(1)._WINDOW, 1_000),
    "a call to MongoDB": (writer._TIMEOUT_MS, 10_000),
    "events compared for conflicting ids": (writer._MOST_COMPARED, 1_000),
    "age of the list of forgotten customers": (forgotten.REFRESH_SECONDS, 1),
    "age of that list when a write ends": (forgotten.LATE_SECONDS, 10),
    "the wait for writes by an older list": (forgotten.GRACE_SECONDS, 20),
    "no progress": (consumer_health.STUCK_SECONDS, 120),
    "a stop": (watchdog.STOP_SECONDS, 30),
    "letters in a list": (dlq_tool.LIST_LIMIT, 50),
}
"""For each row: the value in the code, and the value of the row's first number."""

OTHERS = {
    "the wait that an SDK is told": (responses._LONGEST_WAIT_SECONDS, 10, "1 to 10 s"),
    "a chunked body": (connection.CHUNKED_FOR_PLAIN * events.MAX_BATCH_BYTES, 2 * MIB, "2 MiB"),
    "the journal, a worker": (journal._NEARLY, 0.95, "95 %"),
    "records until a flush is due": (buffer.MAX_BYTES, 8 * MIB, "8 MiB"),
    "a stop": (watchdog.STOP_SECONDS_WITHOUT_KAFKA, 3, "3 s"),
    "what the producer takes at once": (producer._TAKE_BYTES, 1_500_000, "1.5 MB"),
}
"""For each row with a second limit: the value in the code, the expected value, and its text in the row."""

SNIPPET = {
    "events that wait in a browser": ("MOST_EVENTS", 500),
    "events in a request of a page": ("BATCH_EVENTS", 100),
    "an answer that does not come": ("TIMEOUT_SECONDS", 30),
    "a visitor's session": ("SESSION_MINUTES", 30),
}
"""For each row: the name in the snippet, and the value of the row's first number."""


def defaults(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, object]]:
    """Each sizing setting and its default."""
    for name in ("API_QUEUE_CAPACITY", "API_JOURNAL_DIR", "CONSUMER_BATCH_SIZE"):
        monkeypatch.delenv(name, raising=False)
    api, consumer, topics = (
        settings.load_api_settings(),
        settings.load_consumer_settings(),
        settings.load_topic_settings(),
    )
    assert api.journal is not None
    yield "API_THREADS", api.threads
    yield "API_QUEUE_CAPACITY", api.queue_capacity
    yield "API_QUEUE_MAX_BYTES", api.queue_max_bytes
    yield "API_JOURNAL_MAX_BYTES", api.journal.max_bytes
    yield "KAFKA_PARTITIONS", topics.partitions
    yield "KAFKA_REPLICATION_FACTOR", topics.replication_factor
    yield "CONSUMER_BATCH_SIZE", consumer.batch_size
    yield "CONSUMER_FLUSH_INTERVAL", consumer.flush_interval
    yield "CONSUMER_MAX_RETRIES", consumer.max_retries
    yield "CONSUMER_DLQ_MAX_RATIO", consumer.dlq_max_ratio


def first_number(cell: str) -> float:
    """The first number of a cell; in bytes if it has a unit of bytes."""
    found = re.search(r"([\d,.]*\d)(?: (KiB|MiB|GiB))?", cell)
    assert found is not None
    return float(found[1].replace(",", "")) * {None: 1, "KiB": KIB, "MiB": MIB, "GiB": GIB}[found[2]]


@pytest.mark.parametrize("what", CODE)
def test_a_limit_without_a_setting_is_that_of_the_code(what: str) -> None:
    in_code, meant = CODE[what]
    assert in_code == meant
    told = ROWS[what][0]
    if what not in {"connections of a worker", "dead letters among the last 1,000 records"}:
        assert first_number(told) * (1_000 if what == "a call to MongoDB" else 1) == meant


@pytest.mark.parametrize("what", OTHERS)
def test_a_second_limit_of_a_row_is_that_of_the_code(what: str) -> None:
    in_code, meant, told = OTHERS[what]
    assert in_code == meant
    assert any(line.startswith(f"| {what} |") and told in line for line in PAGE.read_text().splitlines())


@pytest.mark.parametrize("what", SNIPPET)
def test_a_limit_of_the_snippet_is_that_of_its_source(what: str) -> None:
    name, meant = SNIPPET[what]
    assert f"const {name} = {meant};" in (ROOT / "api" / "snippet" / "pulse.js").read_text()
    assert first_number(ROWS[what][0]) == meant


def test_each_setting_has_its_default(monkeypatch: pytest.MonkeyPatch) -> None:
    told = {
        setting: first_number(default)
        for default, setting in ROWS.values()
        if setting.isupper() and any(c.isdigit() for c in default)
    }
    for name, default in defaults(monkeypatch):
        assert told[name] == default, name


def test_each_numeric_setting_has_a_row() -> None:
    forms = ("a whole number", "a size", "a duration", "a number")
    declared = [each for process in settings_page.PROCESSES.values() for each in variables(process)]
    bounded = {each.name for each in declared if each.form.allowed.startswith(forms)}
    assert len(bounded) > 10
    assert bounded <= {setting for _, setting in ROWS.values()}


def test_the_readme_links_to_the_page() -> None:
    assert "limits.md" in (ROOT / "README.md").read_text()
