"""Each line of a file becomes one event, with the same id in each run, or appears in the report with its errors."""

import gzip
import json
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests

from common.errors import PulseError
from common.event_json import load_event
from ops.backfill import __main__ as backfill
from ops.backfill.lines import columns, identify, read_lines
from ops.backfill.mapping import LineMapping, event_of, load, rule

AT = "2024-01-31T12:00:00.000000Z"
GOOD = {"customer_id": "alice", "event_type": "click", "timestamp": AT}


def events_of(file: Path, *rules: str, **values: str) -> list[dict[str, Any]]:
    """The events that a dry run would send."""
    mapping = backfill._mapping(file, load(None, rules, [f"{name}={value}" for name, value in values.items()]))
    lines = backfill._prepared(read_lines(file), mapping, identify(file, bool))
    return [json.loads(line.event) for line in lines if isinstance(line, backfill.Ready)]


def errors_of(file: Path, *rules: str, **values: str) -> dict[int, Any]:
    mapping = backfill._mapping(file, load(None, rules, [f"{name}={value}" for name, value in values.items()]))
    lines = backfill._prepared(read_lines(file), mapping, identify(file, bool))
    return {line.number: line.errors for line in lines if isinstance(line, backfill.Refused)}


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def write(content: str | bytes, name: str = "events.csv") -> Path:
        file = tmp_path / name
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        return file

    return write


class TestFiles:
    @pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
    def test_a_csv_file_is_read_with_any_delimiter(self, write: Callable[..., Path], delimiter: str) -> None:
        file = write("a,b\n1,\n".replace(",", delimiter))
        assert [line.content for line in read_lines(file)] == [{"a": "1"}]

    def test_a_row_over_several_lines_has_the_number_of_its_first(self, write: Callable[..., Path]) -> None:
        file = write('a,b\n"x\ny",1\n\nz,2\n')
        assert [(line.number, line.content) for line in read_lines(file)] == [
            (2, {"a": "x\ny", "b": "1"}),
            (5, {"a": "z", "b": "2"}),
        ]

    def test_a_byte_order_mark_is_no_part_of_a_name(self, write: Callable[..., Path]) -> None:
        assert columns(write("\ufeffa,b\n")) == ["a", "b"]

    def test_a_gzipped_file_has_the_ids_of_the_plain_one(self, write: Callable[..., Path]) -> None:
        text = "\n".join(json.dumps({**GOOD, "properties": {"n": n}}) for n in range(3)).encode()
        plain, packed = write(text, "a.ndjson"), write(gzip.compress(text), "b.ndjson.gz")
        assert events_of(plain) == events_of(packed)

    def test_an_error_names_a_file_that_ends_early(self, write: Callable[..., Path]) -> None:
        file = write(gzip.compress(b"x" * 100_000)[:-20], "a.ndjson.gz")
        with pytest.raises(PulseError, match="is it whole"):
            identify(file, bool)

    @pytest.mark.parametrize("content", ["", "a,a\n"])
    def test_columns_without_names_are_refused(self, write: Callable[..., Path], content: str) -> None:
        with pytest.raises(PulseError, match="has to name its columns"):
            columns(write(content))

    def test_a_file_name_without_a_known_suffix_is_refused(self, write: Callable[..., Path]) -> None:
        with pytest.raises(PulseError, match=r"give a file named \.csv"):
            list(read_lines(write("", "events.txt")))


class TestMapping:
    @pytest.mark.parametrize(
        ("spec", "text", "value"),
        [
            ("x", "007", "007"),
            ("x:text", 7, "7"),
            ("x:integer", "-7", -7),
            ("x:number", "9.50", 9.5),
            ("x:number", "9", 9),
            ("x:boolean", "Yes", True),
            ("x:json", '{"a":[1]}', {"a": [1]}),
            ("x:time", "2024-01-31 12:00:00", AT),
            ("x:time", "2024-01-31T13:00:00+01:00", AT),
            ("x:time", "1706702400", AT),
            ("x:time", 1706702400000, AT),
            ("timestamp", "2024-01-31T12:00:00", AT),
        ],
    )
    def test_a_value_becomes_what_its_type_says(self, spec: str, text: Any, value: Any) -> None:
        one = rule(spec, "column")
        assert event_of({"column": text}, LineMapping([one], {}, {})) == {one.field: value}

    @pytest.mark.parametrize("type_", ["integer", "number", "boolean", "json", "time"])
    @pytest.mark.parametrize("text", ["x", "1_0", "١", "nan", "inf"])
    def test_a_value_of_another_type_is_refused(self, write: Callable[..., Path], type_: str, text: str) -> None:
        if (type_, text) == ("json", "nan"):
            text = "NaN x"
        file = write(f"who,at,n\nalice,{AT},{text}\n")
        rules = ["customer_id=who", "timestamp=at", f"properties.n:{type_}=n"]
        assert errors_of(file, *rules, event_type="click") == {2: {"properties.n": [f"n is no {type_}."]}}

    def test_a_column_is_the_field_of_its_name(self, write: Callable[..., Path]) -> None:
        file = write(f"customer_id,event_type,timestamp,properties.price:number,properties.a\nalice,click,{AT},9.5,\n")
        (event,) = events_of(file)
        assert event.pop("event_id").endswith("-2")
        assert event == {**GOOD, "properties": {"price": 9.5}}

    def test_a_field_comes_from_within_an_object(self, write: Callable[..., Path]) -> None:
        file = write(json.dumps({"user": {"id": "alice"}, "at": AT, "data": {"n": 1}}), "a.jsonl")
        (event,) = events_of(file, "customer_id=user.id", "timestamp=at", "properties=data", event_type="click")
        assert event == {**GOOD, "event_id": event["event_id"], "properties": {"n": 1}}

    def test_values_are_translated_and_missing_ones_left_out(self, tmp_path: Path) -> None:
        file = tmp_path / "mapping.toml"
        file.write_text('[fields]\nevent_type = "what"\nuser_id = "who"\n[translate.event_type]\nbuy = "purchase"\n')
        mapping = load(file, [], ["properties.shop=one"])
        assert event_of({"what": "buy"}, mapping) == {"event_type": "purchase", "properties": {"shop": "one"}}
        assert event_of({"what": "click"}, mapping) == {"event_type": "click", "properties": {"shop": "one"}}

    @pytest.mark.parametrize("spec", ["x", "=x", "x:money=y", "x="])
    def test_a_malformed_mapping_is_refused(self, spec: str) -> None:
        with pytest.raises(PulseError, match="give FIELD"):
            load(None, [spec], [])

    def test_a_column_that_is_not_there_is_named(self, write: Callable[..., Path]) -> None:
        with pytest.raises(PulseError, match=r"has no column b; it has a"):
            events_of(write("a\n1\n"), "customer_id=b")


class TestRefusedLines:
    def test_each_is_named_with_its_number_and_the_api_s_own_errors(self, write: Callable[..., Path]) -> None:
        lines = [
            json.dumps(GOOD),
            "no json",
            "[]",
            json.dumps({**GOOD, "event_type": "fly"}),
            json.dumps({**GOOD, "properties": {"a": "x" * 70_000}}),
            '{"customer_id":"\\ud800"}',
            json.dumps({name: GOOD[name] for name in ("customer_id", "event_type")}),
        ]
        errors = errors_of(write("\n".join(lines), "a.ndjson"))
        assert errors.keys() == {2, 3, 4, 5, 6, 7}
        assert errors[3] == {"line": ["The line is no JSON object."]}
        assert "event_type" in errors[4]
        assert errors[7] == {"timestamp": [backfill._NO_TIME]}

    def test_bytes_that_are_no_text_are_refused(self, write: Callable[..., Path]) -> None:
        file = write(b"customer_id,event_type,timestamp\nal\xffice,click,2024-01-31\n")
        assert errors_of(file).keys() == {2}

    def test_a_row_with_a_cell_too_many_is_refused(self, write: Callable[..., Path]) -> None:
        assert errors_of(write("a,b\n1,2,3\n")) == {2: {"line": ["Has 3 cells, where there are 2 columns."]}}


class Api:
    """Accepts batches; refuses customers called ben, and all requests while it is full."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.fails_after: int | None = None

    def __call__(self, session: requests.Session, url: str, body: bytes, query: str) -> requests.Response:
        assert query == "?partial=true"
        if self.fails_after is not None and len(self.events) >= self.fails_after:
            raise PulseError("The API accepts no events.")
        events = json.loads(body)["events"]
        wrong = {str(n): {"customer_id": ["No."]} for n, one in enumerate(events) if one["customer_id"] == "ben"}
        self.events += [load_event(json.dumps(one).encode()) for one in events if one["customer_id"] != "ben"]
        answer = requests.Response()
        answer.status_code = 400 if len(wrong) == len(events) else 202
        ids = [None if str(n) in wrong else one["event_id"] for n, one in enumerate(events)]
        told: dict[str, Any] = {"event_ids": ids, "rejected": wrong}
        answer._content = json.dumps(told if answer.ok else {"errors": {"events": wrong}, "message": "No."}).encode()
        return answer


class TestRun:
    @pytest.fixture
    def api(self, monkeypatch: pytest.MonkeyPatch) -> Api:
        api = Api()
        monkeypatch.setattr(backfill, "deliver", api)
        monkeypatch.setattr(backfill, "check_ready", lambda _: None)
        return api

    @pytest.fixture
    def file(self, write: Callable[..., Path]) -> Path:
        customers = ["alice", "ben", "", "carol"]
        lines = [json.dumps({**GOOD, "customer_id": customers[n % 4], "properties": {"n": n}}) for n in range(1000)]
        return write("\n".join(lines), "events.ndjson")

    @staticmethod
    def run(file: Path, *rules: str, dry_run: bool = False) -> int:
        return backfill.backfill(
            Namespace(file=file, url="http://api", map=list(rules), set=[], mapping=None, dry_run=dry_run)
        )

    def test_it_sends_the_valid_lines_and_reports_the_others(self, api: Api, file: Path) -> None:
        assert self.run(file) == 1
        assert [event["properties"]["n"] for event in api.events] == [n for n in range(1000) if n % 4 in (0, 3)]
        report = [json.loads(line) for line in Path(f"{file}.refused.ndjson").read_text().splitlines()]
        assert [one["line"] for one in report] == [n + 1 for n in range(1000) if n % 4 in (1, 2)]
        assert all("customer_id" in one["errors"] for one in report)

    @pytest.mark.parametrize("after", [0, 1, 60, 450])
    def test_a_stopped_run_continues(self, api: Api, file: Path, after: int) -> None:
        api.fails_after = after
        with pytest.raises(PulseError, match="accepts no events"):
            self.run(file)
        api.fails_after = None
        assert self.run(file) == 1
        assert len({event["event_id"] for event in api.events}) == len(api.events) == 500
        report = Path(f"{file}.refused.ndjson").read_text().splitlines()
        assert [json.loads(line)["line"] for line in report] == [n + 1 for n in range(1000) if n % 4 in (1, 2)]

    def test_a_second_run_sends_nothing(self, api: Api, file: Path) -> None:
        self.run(file)
        before = len(api.events)
        assert self.run(file) == 1
        assert len(api.events) == before

    def test_a_line_that_is_sent_again_keeps_its_id(self, api: Api, file: Path) -> None:
        self.run(file)
        Path(f"{file}.backfill").unlink()
        self.run(file)
        assert len(api.events) == 1000
        assert len({event["event_id"] for event in api.events}) == 500

    def test_an_id_of_the_file_is_kept(self, api: Api, write: Callable[..., Path]) -> None:
        assert self.run(write(json.dumps({**GOOD, "event_id": "order-7"}), "a.ndjson")) == 0
        assert [event["event_id"] for event in api.events] == ["order-7"]

    def test_a_run_with_a_changed_file_does_not_continue(self, api: Api, file: Path) -> None:
        self.run(file)
        with file.open("a") as more:
            more.write("\n{}")
        with pytest.raises(PulseError, match="has changed since the start"):
            self.run(file)

    def test_a_run_with_another_mapping_does_not_continue(self, api: Api, file: Path) -> None:
        self.run(file)
        with pytest.raises(PulseError, match="started with another mapping"):
            self.run(file, "customer_id=customer_id")

    def test_a_dry_run_sends_nothing_and_leaves_nothing(
        self, api: Api, file: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert self.run(file, dry_run=True) == 1
        output = capsys.readouterr()
        assert "750 events would be sent, 250 lines would be refused." in output.err
        assert {json.loads(line)["line"] for line in output.out.splitlines()} == {
            n + 1 for n in range(1000) if n % 4 == 2
        }
        assert api.events == []
        assert list(file.parent.iterdir()) == [file]

    def test_it_warns_that_a_ttl_counts_from_the_import(
        self, api: Api, file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("MONGO_TTL_DAYS", "30")
        self.run(file)
        assert "MONGO_TTL_DAYS=30 counts from now on" in capsys.readouterr().out

    def test_the_error_about_a_missing_file_is_one_line(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr(sys, "argv", ["backfill", str(tmp_path / "no.csv")])
        with pytest.raises(PulseError, match=r"no\.csv: No such file"):
            backfill.main()
