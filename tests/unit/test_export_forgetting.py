"""The export deletes forgotten customers from files and BigQuery, and no other events, even if processes die."""

import functools
import io
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from common.kafka import GroupOffsets
from ops.export import exporter
from ops.export.destination import Destination
from ops.export.exporter import Parts
from ops.export.load import Outcome
from ops.export.state import PUT_SECONDS, WRITE_SECONDS
from tests.exports import FakeStore, FilesInMemory, Silent, Stepped, stored_event

Row = Mapping[str, Any]
CUSTOMERS = ["alice", "ben", "cora"]
DAYS = ["2026-01-30", "2026-01-31"]
CALLS = [*("put", "written", "submit", "wait", "forgotten", "begin_again", "rewritten", "delete"), "the end"]
"""The calls before which an exporter may stop for a long time."""
BEGIN = datetime(2026, 2, 1, tzinfo=UTC)


@functools.lru_cache(1_000)
def rows_in(content: bytes) -> tuple[tuple[str, str, datetime], ...]:
    """The event, the customer and the time of receipt of each row."""
    rows = pq.ParquetFile(io.BytesIO(content)).read(["event_id", "customer_id", "received_at"]).to_pylist()
    return tuple((row["event_id"], row["customer_id"], row["received_at"]) for row in rows)


class Warehouse:
    """BigQuery: a job reads its files at its start, and its rows appear once a client has waited for the job."""

    table = "project.dataset.events"

    def __init__(self, destination: FilesInMemory) -> None:
        self.destination = destination
        self.jobs: dict[str, list[tuple[str, str, datetime]]] = {}
        self.running: set[str] = set()
        self.rows: list[tuple[str, str, datetime]] = []

    def submit(self, job_id: str, urls: Sequence[str]) -> None:
        if job_id not in self.jobs:
            paths = [url.removeprefix("gs://bucket/") for url in urls]
            self.jobs[job_id] = [row for path in paths for row in rows_in(self.destination.contents[path])]
            self.running.add(job_id)

    def wait(self, job_id: str) -> Outcome:
        if job_id in self.running:
            self.running.remove(job_id)
            self.rows += self.jobs[job_id]
        return Outcome(len(self.jobs[job_id]))

    def delete(self, customers: Mapping[str, datetime]) -> int:
        left = [row for row in self.rows if row[1] not in customers or row[2] >= customers[row[1]]]
        deleted, self.rows = len(self.rows) - len(left), left
        return deleted


class Client:
    """An exporter's client of BigQuery, which stops between the start of a job and its end."""

    table = Warehouse.table

    def __init__(self, warehouse: Any) -> None:
        self.warehouse = warehouse
        self.delete = warehouse.delete

    def run(self, job_id: str, urls: Sequence[str]) -> Outcome:
        self.warehouse.submit(job_id, urls)
        outcome: Outcome = self.warehouse.wait(job_id)
        return outcome


class Scene:
    """A partition whose events are stored and committed on arrival, and its exported files and rows."""

    def __init__(self) -> None:
        self.now = BEGIN
        self.documents: list[dict[str, Any]] = []
        self.store = FakeStore(lambda: self.documents)
        self.store.now = lambda: self.now
        self.destination = FilesInMemory()
        self.warehouse = Warehouse(self.destination)
        self.offset = 0
        self.forgotten: dict[str, datetime] = {}

    def put(self, *customers: str) -> None:
        for customer in customers:
            day = DAYS[self.offset % 2]
            document = stored_event(self.offset + 1, (0, self.offset), day, customer_id=customer)
            # In the order of storing, on different days.
            document["received_at"] += timedelta(seconds=self.offset)
            self.documents.append(document)
            self.offset += 1

    def forget(self, customer: str, *, before: datetime = BEGIN) -> None:
        """Forget a customer, as the tool does; the exporter learns of it if it has planned a range."""
        self.documents = [one for one in self.documents if one["customer_id"] != customer]
        self.forgotten[customer] = before
        if self.store.ranges:
            self.store.to_forget[customer] = before

    def parts(self, **given: Any) -> Parts:
        part = {"store": self.store, "destination": self.destination, "warehouse": self.warehouse, **given}
        warehouse = part["warehouse"] and Client(part["warehouse"])
        return Parts("topic", part["store"], part["destination"], warehouse, self.offsets, lambda *_: None, 3, 0.0)

    def offsets(self) -> dict[int, GroupOffsets]:
        return {0: GroupOffsets(0, self.offset, self.offset)}

    def run(self, **given: Any) -> exporter.Outcome:
        return exporter.run(self.parts(**given), Silent())

    def in_files(self) -> list[str]:
        return sorted(row[0] for content in self.destination.contents.values() for row in rows_in(content))

    def in_bigquery(self) -> list[str]:
        return sorted(row[0] for row in self.warehouse.rows)

    def stored(self) -> list[str]:
        return sorted(one["event_id"] for one in self.documents)


@pytest.fixture
def scene() -> Scene:
    scene = Scene()
    scene.put("alice", "ben", "alice", "cora", "ben")
    return scene


def test_the_next_run_deletes_their_events_from_files_and_bigquery(scene: Scene) -> None:
    scene.run()
    scene.forget("alice")
    outcome = scene.run()
    assert outcome.problems == []
    assert (outcome.forgotten.customers, outcome.forgotten.rows, outcome.forgotten.files) == (1, 2, 1)
    assert outcome.forgotten.bigquery_rows == 2
    assert scene.in_files() == scene.in_bigquery() == scene.stored() == ["event-2", "event-4", "event-5"]
    assert scene.store.to_forget == {}


def test_a_run_without_a_customer_to_forget_reads_no_file(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.run()
    monkeypatch.setattr(FilesInMemory, "open", None)
    assert scene.run().problems == []


def test_events_received_after_the_forgetting_stay(scene: Scene) -> None:
    scene.run()
    scene.store.to_forget["alice"] = scene.documents[2]["received_at"]
    scene.run()
    assert "event-3" in scene.in_files()
    assert "event-1" not in scene.in_files()


@pytest.mark.parametrize("name", ["customer_id", "user_id", "anonymous_id", "previous_id"])
def test_a_customer_is_found_in_a_file_by_each_id_of_an_event(name: str) -> None:
    scene = Scene()
    scene.documents = [stored_event(1, (0, 0), DAYS[0], **{name: "alice"}), stored_event(2, (0, 1), DAYS[0])]
    scene.offset = 2
    scene.run(warehouse=None)
    scene.store.to_forget["alice"] = BEGIN
    scene.run(warehouse=None)
    assert scene.in_files() == ["event-2"]


def stopped_before(scene: Scene, call: str) -> Stepped:
    """An exporter that has stopped before a call."""

    def work(stepped: Stepped) -> None:
        scene.run(**{name: stepped.gated(getattr(scene, name)) for name in ("store", "destination", "warehouse")})

    exporter = Stepped(work)
    go_on(exporter, call)
    return exporter


def go_on(exporter: Stepped, call: str) -> None:
    while exporter.at != call:
        exporter.step()
        assert not exporter.over


def test_a_run_waits_for_an_exporter_that_may_still_write(scene: Scene) -> None:
    slow = stopped_before(scene, "put")
    scene.run()
    scene.forget("alice")
    outcome = scene.run()
    assert outcome.forgotten.waits_until == BEGIN + timedelta(seconds=WRITE_SECONDS + PUT_SECONDS)
    assert scene.store.to_forget
    slow.finish()
    assert scene.run().forgotten.waits_until is None
    assert scene.in_files() == scene.in_bigquery() == scene.stored()


def test_a_run_waits_for_a_killed_exporter_until_its_deadline(scene: Scene) -> None:
    stopped_before(scene, "written").kill()
    scene.forget("alice")
    scene.forget("ben")
    scene.forget("cora")
    assert scene.run().forgotten.waits_until
    # The exporter has deleted the range, but files exist that no exporter has recorded as written.
    assert scene.in_files() != []
    scene.now += timedelta(seconds=WRITE_SECONDS + PUT_SECONDS)
    scene.run()
    assert (scene.in_files(), scene.store.to_forget) == ([], {})


def test_a_run_waits_for_a_job_that_has_read_an_old_file(scene: Scene) -> None:
    slow = stopped_before(scene, "forgotten")
    scene.put("alice")
    loading = stopped_before(scene, "wait")
    scene.forget("alice")
    slow.finish()
    assert scene.store.to_forget == {}
    loading.finish()
    assert scene.in_bigquery() == scene.stored()


def test_two_runs_with_different_customers_delete_all_of_them() -> None:
    scene = Scene()
    # One file has the events of two forgotten customers.
    scene.put("alice", "cora", "ben")
    scene.run()
    scene.forget("alice")
    slow = stopped_before(scene, "begin_again")
    scene.forget("ben")
    quick = stopped_before(scene, "begin_again")
    go_on(slow, "put")
    quick.finish()
    slow.finish()
    assert scene.store.to_forget == {}
    assert scene.in_files() == scene.stored()


def test_a_run_waits_while_another_may_write_rows_that_it_read_earlier(scene: Scene) -> None:
    scene.run()
    scene.forget("alice")
    slow = stopped_before(scene, "put")
    scene.forget("ben")
    assert scene.run().forgotten.waits_until
    slow.finish()
    scene.run()
    assert (scene.in_files(), scene.store.to_forget) == (scene.stored(), {})


def test_forgetting_is_not_done_when_bigquery_is_no_longer_set(scene: Scene) -> None:
    scene.run()
    scene.forget("alice")
    (problem,) = scene.run(warehouse=None).problems
    assert "set EXPORT_BIGQUERY_TABLE" in problem
    assert scene.store.to_forget


def test_missing_files_are_counted_but_not_those_of_another_machine(tmp_path: Path) -> None:
    scene = Scene()
    scene.put("alice", "ben", "alice")
    folder = tmp_path / "export"
    parts = scene.parts(warehouse=None)._replace(destination=Destination(folder.as_uri()))
    exporter.run(parts, Silent())
    scene.forget("alice")
    folder.rename(tmp_path / "elsewhere")
    (problem,) = exporter.run(parts, Silent()).problems
    assert "export on the machine that has the files" in problem
    assert scene.store.to_forget
    folder.mkdir()
    outcome = exporter.run(parts, Silent())
    assert (outcome.problems, outcome.forgotten.missing, scene.store.to_forget) == ([], 2, {})


def test_files_are_searched_in_the_folder_of_their_writing(tmp_path: Path) -> None:
    scene = Scene()
    scene.put("alice", "ben")
    first, second = (Destination((tmp_path / name).as_uri()) for name in ("first", "second"))
    exporter.run(scene.parts(warehouse=None)._replace(destination=first), Silent())
    scene.forget("alice")
    outcome = exporter.run(scene.parts(warehouse=None)._replace(destination=second), Silent())
    assert (outcome.problems, outcome.forgotten.rows) == ([], 1)
    rows = [row for file in tmp_path.rglob("*.parquet") for row in rows_in(file.read_bytes())]
    assert [event for event, *_ in rows] == ["event-2"]


def test_a_file_that_took_too_long_is_not_published(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ops.export.write.WRITE_SECONDS", -1.0)
    problems = scene.run().problems
    assert "lower EXPORT_MAX_ROWS" in problems[0]
    assert scene.destination.contents == {}


class Forgetting(RuleBasedStateMachine):
    """Up to two exporters, which stop and die at any call, while customers send events and are forgotten."""

    @initialize()
    def start(self) -> None:
        self.scene = Scene()
        self.scene.put(*CUSTOMERS)
        self.exporters: list[Stepped] = []

    @rule(customers=st.lists(st.sampled_from(CUSTOMERS), max_size=5))
    def store_events(self, customers: list[str]) -> None:
        self.scene.put(*(one for one in customers if one not in self.scene.forgotten))

    @rule(customer=st.sampled_from(CUSTOMERS))
    def forget(self, customer: str) -> None:
        self.scene.forget(customer)

    @rule(which=st.integers(0, 1), call=st.sampled_from(CALLS))
    def export_up_to(self, which: int, call: str) -> None:
        while len(self.exporters) < 2:
            self.exporters.append(self.exporter())
        one = self.exporters[which]
        one.step()
        while not one.over and one.at != call:
            one.step()
        if one.over:
            one.finish()
            self.exporters.remove(one)

    @precondition(lambda self: self.exporters)
    @rule(data=st.data())
    def kill_an_exporter(self, data: st.DataObject) -> None:
        one = data.draw(st.sampled_from(self.exporters))
        self.exporters.remove(one)
        one.kill()

    @precondition(lambda self: self.scene.warehouse.running)
    @rule(data=st.data())
    def a_job_ends(self, data: st.DataObject) -> None:
        self.scene.warehouse.wait(data.draw(st.sampled_from(sorted(self.scene.warehouse.running))))

    @rule()
    def hours_pass(self) -> None:
        # Longer than an exporter needs for a file.
        while self.exporters:
            self.exporters.pop().kill()
        self.scene.now += timedelta(hours=2)

    @invariant()
    def nothing_is_left_of_customers_that_are_done(self) -> None:
        scene = self.scene
        done = {one for one in scene.forgotten if one not in scene.store.to_forget}
        jobs = [row for job in scene.warehouse.running for row in scene.warehouse.jobs[job]]
        files = [row for content in scene.destination.contents.values() for row in rows_in(content)]
        assert not [row for row in (*files, *scene.warehouse.rows, *jobs) if row[1] in done]

    def teardown(self) -> None:
        scene = self.scene
        # The first run writes the planned ranges. A killed exporter may have begun to write the same ones.
        for number in range(3):
            self.hours_pass()
            self.exporter().finish()
            assert number == 0 or scene.store.to_forget == {}
        assert scene.in_files() == scene.in_bigquery() == scene.stored()
        self.nothing_is_left_of_customers_that_are_done()
        files = {path: len(rows_in(content)) for path, content in scene.destination.contents.items()}
        assert {file.path: file.rows for one in scene.store.ranges.values() for file in one.files if file.rows} == {
            path: rows for path, rows in files.items() if rows
        }

    def exporter(self) -> Stepped:
        def work(stepped: Stepped) -> None:
            scene = self.scene
            gated: dict[str, Callable[..., Any]] = {
                name: stepped.gated(getattr(scene, name)) for name in ("store", "destination", "warehouse")
            }
            outcome = scene.run(**gated)
            assert outcome.problems == [], outcome.problems

        return Stepped(work)


Forgetting.TestCase.settings = settings(stateful_step_count=20)
TestForgetting = Forgetting.TestCase
