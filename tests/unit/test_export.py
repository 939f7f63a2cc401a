"""The exporter's plans, writes and loads, with a scenario for each rule."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bson.int64 import Int64

from common.kafka import GroupOffsets
from ops.export import columns, exporter
from ops.export.destination import Destination
from ops.export.exporter import Parts
from ops.export.plan import begin_generation
from tests.exports import FakeDestination, FakeStore, FakeWarehouse, Silent, Stepped, nth_id, stored_event

DAY = "2026-01-31"


class Scene:
    """A partition whose events are stored and committed on arrival."""

    def __init__(self) -> None:
        self.documents: list[dict[str, Any]] = []
        self.store = FakeStore(lambda: self.documents)
        self.destination = FakeDestination()
        self.warehouse = FakeWarehouse(self.destination)
        self.committed = 0
        self.end: int | None = None
        self.missing: str | None = None

    def put(self, *offsets: int, day: str = DAY) -> None:
        for offset in offsets:
            self.documents.append(stored_event(len(self.documents) + 1, (0, offset), day))
            self.committed = max(self.committed, offset + 1)

    def offsets(self) -> dict[int, GroupOffsets]:
        return {0: GroupOffsets(0, self.committed if self.end is None else self.end, self.committed)}

    def parts(self, max_rows: int = 100, min_age: float = 0.0) -> Parts:
        fakes: Any = {"store": self.store, "destination": self.destination, "warehouse": self.warehouse}
        return Parts(
            "topic",
            offsets=self.offsets,
            missing_event=self.missing_event,
            max_rows=max_rows,
            min_age=min_age,
            **fakes,
        )

    def missing_event(self, partition: int, span: range) -> str | None:
        del partition, span
        return self.missing

    def run(self, **options: Any) -> list[str]:
        return exporter.run(self.parts(**options), Silent()).problems

    def ranges(self) -> list[str]:
        return sorted(self.store.ranges)


def test_a_range_ends_where_the_group_has_committed() -> None:
    scene = Scene()
    scene.put(*range(10))
    scene.committed = 6
    assert scene.run() == []
    assert scene.ranges() == ["topic-0-0-5"]
    assert scene.warehouse.rows == [f"event-{number}" for number in range(1, 7)]


def test_a_run_reports_the_written_files() -> None:
    scene = Scene()
    scene.put(0, 1)
    outcome = exporter.run(scene.parts(), Silent())
    assert [(one.rows, [file.day for file in one.files]) for one in outcome.written] == [(2, [DAY])]


def test_many_records_are_divided_into_ranges() -> None:
    scene = Scene()
    scene.put(*range(10))
    scene.run(max_rows=4)
    assert scene.ranges() == ["topic-0-0-3", "topic-0-4-7", "topic-0-8-9"]


def test_one_range_covers_all_records_before_the_first_event() -> None:
    scene = Scene()
    scene.put(5_000_000_000, 5_000_000_001)
    scene.run(max_rows=10)
    assert scene.ranges() == ["topic-0-0-4999999999", "topic-0-5000000000-5000000001"]
    assert len(scene.warehouse.rows) == 2


def test_young_events_wait() -> None:
    scene = Scene()
    scene.put(1, 2)
    young = stored_event(1, (0, 3), DAY)
    young["_id"] = type(young["_id"]).from_datetime(datetime.now(UTC))
    scene.documents.append(young)
    scene.committed = 4
    assert scene.run(min_age=60.0) == []
    assert scene.ranges() == ["topic-0-0-0", "topic-0-1-2"]
    scene.run()
    assert scene.ranges() == ["topic-0-0-0", "topic-0-1-2", "topic-0-3-3"]


def test_an_event_that_arrives_twice_is_exported_at_its_first_place() -> None:
    scene = Scene()
    scene.put(0, 5)
    scene.committed = 3
    scene.run()
    scene.committed = 6
    scene.run()
    assert scene.warehouse.rows == ["event-1", "event-2"]


def test_progress_of_another_exporter_does_not_count_as_a_new_topic() -> None:
    scene = Scene()
    scene.put(0, 1)

    def work(stepped: Stepped) -> None:
        parts = scene.parts()._replace(store=stepped.gated(scene.store), offsets=stepped.gated(scene).offsets)
        assert exporter.run(parts, Silent()).problems == []

    for steps in range(40):
        scene.put(scene.committed)
        slow = Stepped(work)
        for _ in range(steps):
            slow.step()
        scene.put(scene.committed)
        assert scene.run() == []
        slow.finish()
    assert sorted(scene.warehouse.rows) == sorted(one["event_id"] for one in scene.documents)


def test_an_event_stored_after_the_plan_is_not_in_the_file() -> None:
    scene = Scene()
    scene.put(0, 2)
    parts = scene.parts()

    def crash(source: Path, path: str) -> None:
        raise OSError("the disk is full")

    scene.destination.put = crash  # type: ignore[method-assign]
    assert scene.run() == ["the disk is full"]
    scene.put(1)
    parts.destination.__dict__.clear()
    parts.destination.__dict__["files"] = {}
    scene.run()
    assert scene.warehouse.rows == ["event-1", "event-2"]


def test_a_topic_that_was_created_again_stops_the_export() -> None:
    scene = Scene()
    scene.put(*range(10))
    scene.run()
    scene.committed = scene.end = 3
    (problem,) = scene.run()
    assert "was created again" in problem
    assert "--new-generation" in problem


def test_a_collection_without_consumed_events_stops_the_export() -> None:
    scene = Scene()
    scene.missing = "event-7"
    scene.committed = 10
    (problem,) = scene.run()
    assert "such as event-7: are MONGO_DATABASE, MONGO_COLLECTION" in problem
    assert scene.ranges() == []
    scene.put(12)
    assert scene.run() == []
    scene.committed = 20
    assert len(scene.run()) == 1
    scene.missing = None
    assert scene.run() == []
    assert scene.ranges()[-1] == "topic-0-13-19"


def test_a_new_generation_continues_with_a_topic_that_was_created_again() -> None:
    scene = Scene()
    scene.put(*range(10))
    scene.committed = 6
    scene.run()
    # Two events were stored and never committed; then the topic is deleted and created again.
    scene.documents = scene.documents[:8]
    first = [one["event_id"] for one in scene.documents]
    for offset in (0, 1, 2):
        scene.documents.append(stored_event(100 + offset, (0, offset), DAY))
    scene.committed = scene.end = 3
    assert exporter.run(scene.parts(), Silent(), new_generation=True).problems == []
    assert sorted(scene.warehouse.rows) == sorted([*first, "event-100", "event-101", "event-102"])
    scene.end = None
    for offset in range(3, 12):
        scene.documents.append(stored_event(100 + offset, (0, offset), DAY))
    scene.committed = 12
    assert scene.run(max_rows=4) == []
    assert sorted(scene.warehouse.rows) == sorted(one["event_id"] for one in scene.documents)


def test_repeated_and_mistaken_generations_export_each_event_once() -> None:
    scene = Scene()
    number = 0
    for generation in range(5):
        for offset in range(4 + generation % 3 * 5):
            number += 1
            scene.documents.append(stored_event(number, (0, offset), DAY))
            scene.committed = scene.end = offset + 1
        run = exporter.run(scene.parts(max_rows=3), Silent(), new_generation=generation > 0)
        assert run.problems == []
        # The operator begins a new generation by mistake: it is the same topic.
        assert exporter.run(scene.parts(max_rows=3), Silent(), new_generation=True).problems == []
        assert sorted(scene.warehouse.rows) == sorted(one["event_id"] for one in scene.documents)


def test_beginning_the_same_generation_twice_begins_it_once() -> None:
    scene = Scene()
    scene.put(*range(10))
    scene.run()
    begin_generation("topic", scene.store, scene.store)
    assert scene.store.generation("topic").number == 2


def test_backfill_exports_events_without_a_place() -> None:
    scene = Scene()
    scene.documents = [stored_event(number, None, DAY) for number in range(1, 8)]
    assert exporter.backfill(scene.parts(max_rows=3), Silent()).problems == []
    assert exporter.backfill(scene.parts(max_rows=3), Silent()).problems == []
    assert sorted(scene.warehouse.rows) == [f"event-{number}" for number in range(1, 8)]
    assert len(scene.store.ranges) == 3


def test_a_range_may_have_many_days() -> None:
    scene = Scene()
    days = [(datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=number)).date().isoformat() for number in range(50)]
    for number in range(100):
        scene.put(number, day=days[number % 50])
    assert scene.run() == []
    assert sorted(scene.destination.files) == [f"events/day={day}/topic-0-0-99.parquet" for day in days]
    assert len(scene.warehouse.rows) == 100


# ── Rows ──


def in_file(tmp_path: Path, *documents: dict[str, Any]) -> Path:
    """The documents in a file, written through the exporter."""
    scene = Scene()
    scene.documents = list(documents)
    scene.committed = 1000
    parts = scene.parts()._replace(destination=Destination(tmp_path.as_uri()), warehouse=None)
    assert exporter.run(parts, Silent()).problems == []
    (path,) = tmp_path.glob("events/*/*.parquet")
    return path


def test_json_has_the_values_as_stored(tmp_path: Path) -> None:
    properties = {
        "big": Int64(2**63 - 1),
        "small": -(2**63),
        "list": [{"a": [None, 1.5, "é\u2028"]}],
        "b": True,
        "$": {},
    }
    document = stored_event(1, (0, 7), DAY, properties=properties, traits={}, event_name="Order Completed")
    (row,) = pq.read_table(in_file(tmp_path, document)).to_pylist()
    assert json.loads(row["properties"]) == properties
    assert list(json.loads(row["properties"])) == list(properties)
    assert row["traits"] == "{}"
    assert row["context"] is None
    assert row["kafka"] == {"partition": 0, "offset": 7}
    assert row["event_name"] == "Order Completed"


def test_fields_of_a_newer_api_are_kept(tmp_path: Path) -> None:
    document = stored_event(1, (0, 7), DAY, tomorrow={"a": 1}, other_fields="odd")
    path = in_file(tmp_path, document)
    (row,) = pq.read_table(path).to_pylist()
    assert json.loads(row["other_fields"]) == {"tomorrow": {"a": 1}, "other_fields": "odd"}
    assert columns.as_event(row)["tomorrow"] == {"a": 1}


@pytest.mark.parametrize(
    ("away", "kept"),
    [
        (timedelta(days=-3652), True),
        (timedelta(days=2), True),
        (timedelta(days=-3653), False),
        (timedelta(days=3), False),
        (timedelta(days=365 * 5000), False),
        (timedelta(days=-365 * 2000), False),
    ],
)
def test_clocks_that_are_wrong_by_years_use_the_partition_of_receipt(
    tmp_path: Path, away: timedelta, kept: bool
) -> None:
    received = datetime(2026, 1, 31, 12, tzinfo=UTC)
    own = received + away
    (row,) = pq.read_table(in_file(tmp_path, stored_event(1, (0, 7), DAY, timestamp=own))).to_pylist()
    assert row["timestamp"] == (own if kept else received)
    assert row["original_timestamp"] == (None if kept else own)
    assert columns.as_event(row)["timestamp"] == own
    assert "original_timestamp" not in columns.as_event(row)


def test_a_load_touches_fewer_partitions_than_bigquery_allows() -> None:
    assert columns.DAYS_BEFORE + columns.DAYS_AFTER + 1 < 4_000


def test_the_error_names_a_document_that_is_no_event() -> None:
    scene = Scene()
    scene.put(0, 1, 2)
    del scene.documents[1]["customer_id"]
    (problem,) = scene.run()
    assert str(nth_id(2)) in problem
    assert "customer_id" in problem


@pytest.mark.parametrize("missing", ["received_at"])
def test_the_error_names_a_document_without_a_day(missing: str) -> None:
    scene = Scene()
    scene.put(0)
    del scene.documents[0][missing]
    assert str(nth_id(1)) in scene.run()[0]


def test_duckdb_reads_the_files_with_one_query(tmp_path: Path) -> None:
    path = in_file(tmp_path, stored_event(1, (0, 7), DAY, properties={"price": 9.5}))
    files = path.parents[1] / "*" / "*.parquet"
    query = f"SELECT day::text, event_type, sum((properties->>'price')::double) FROM '{files}' GROUP BY ALL"
    assert duckdb.execute(query).fetchall() == [(DAY, "click", 9.5)]


def test_an_incomplete_file_never_appears(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("shutil.copyfile", full)
    source = tmp_path / "source"
    source.write_bytes(b"content")
    with pytest.raises(OSError, match="No space"):
        Destination((tmp_path / "out").as_uri()).put(source, "events/day=2026-01-31/a.parquet")
    assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == []


def test_terraform_has_the_columns() -> None:
    assert columns.BIGQUERY_SCHEMA.read_text() == columns.bigquery_schema_text()


def test_required_columns_are_required_in_both() -> None:
    in_bigquery = {column["name"] for column in columns.bigquery_schema() if column["mode"] == "REQUIRED"}
    assert in_bigquery == {field.name for field in columns.SCHEMA if not field.nullable}
    assert isinstance(columns.SCHEMA, pa.Schema)
