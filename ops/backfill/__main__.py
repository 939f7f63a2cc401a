"""`python -m ops.backfill FILE`: sends earlier events, from CSV or NDJSON, to the API; see docs/backfill.md.

Each event has an id derived from the file, so a line that is sent again is stored once.
"""

import argparse
import contextlib
import hashlib
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import requests
from tqdm import tqdm

from common import event_json
from common.errors import InvalidEventError, PulseError
from common.events import MAX_BATCH_EVENTS, MAX_EVENT_BYTES
from common.settings import load_api_address, load_local_settings
from loadtest.client import base_url, check_ready, deliver, open_session, refused, run
from ops.backfill.lines import Identity, Line, columns, identify, is_csv, read_lines
from ops.backfill.mapping import LineMapping, event_of, load, rule

_BATCH_BYTES = 1_000_000
"""The API takes 1 MiB."""
_NO_TIME = "Missing: the API would take the time of receipt for it."


class Ready(NamedTuple):
    """A line as an event for the API."""

    number: int
    event: bytes


class Refused(NamedTuple):
    """An invalid line, with its fault."""

    number: int
    errors: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class State:
    """The progress of a file: its digest, its mapping, and the last finished line."""

    digest: str
    mapping: str
    line: int = 0
    accepted: int = 0
    refused: int = 0


class Diary:
    """The files beside the input: its progress (`FILE.backfill`), and the refused lines (`FILE.refused.ndjson`)."""

    def __init__(self, file: Path, identity: Identity, mapping: LineMapping) -> None:
        """Raises PulseError if an earlier run had other contents or another mapping; OSError."""
        self.state_file = file.with_name(f"{file.name}.backfill")
        self.report_file = file.with_name(f"{file.name}.refused.ndjson")
        self.state = State(identity.digest, hashlib.sha256(repr(mapping).encode()).hexdigest())
        if self.state_file.exists():
            self._go_on()
        self._keep_report()

    def add(self, accepted: int, wrong: Sequence[Refused], line: int) -> None:
        """Record that all lines up to this one are finished. After a kill, the next run may repeat some lines:
        harmless.
        """
        with self.report_file.open("a") as report:
            report.writelines(json.dumps({"line": one.number, "errors": one.errors}) + "\n" for one in wrong)
        state = self.state
        self.state = replace(state, line=line, accepted=state.accepted + accepted, refused=state.refused + len(wrong))
        new = self.state_file.with_name(f"{self.state_file.name}.new")
        new.write_text(json.dumps(asdict(self.state)) + "\n")
        new.replace(self.state_file)

    def _go_on(self) -> None:
        try:
            before = State(**json.loads(self.state_file.read_text()))
        except (ValueError, TypeError) as error:
            raise PulseError(
                f"{self.state_file} is damaged: delete it to start again; nothing is stored twice."
            ) from error
        restart = f"delete {self.state_file} to start again"
        if before.digest != self.state.digest:
            raise PulseError(f"The file has changed since the start, so its lines would get other ids: {restart}.")
        if before.mapping != self.state.mapping:
            raise PulseError(f"It was started with another mapping; events sent with that stay stored: {restart}.")
        self.state = before

    def _keep_report(self) -> None:
        """Of what an earlier run has reported, what it was done with."""
        lines = self.report_file.read_text().splitlines(keepends=True) if self.report_file.exists() else []
        with contextlib.suppress(ValueError):
            lines = [line for line in lines if json.loads(line)["line"] <= self.state.line]
        self.report_file.write_text("".join(lines))


def main() -> int:
    """Returns 0 if every line was accepted, 1 if some were refused, 130 after Ctrl-C. Raises PulseError."""
    parser = argparse.ArgumentParser(prog="python -m ops.backfill", description="Send the events in a file to the API.")
    parser.add_argument("file", type=Path, metavar="FILE", help=".csv, .tsv, .ndjson or .jsonl, with or without .gz")
    parser.add_argument("--url", type=base_url, default=load_api_address().url, help="of the API (%(default)s)")
    parser.add_argument("--map", action="append", default=[], metavar="FIELD[:TYPE]=COLUMN", help="may be repeated")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="for every line")
    parser.add_argument("--mapping", type=Path, metavar="TOML", help="the same in a file")
    parser.add_argument("--dry-run", action="store_true", help="say what would be refused, and send nothing")
    arguments = parser.parse_args()
    try:
        return backfill(arguments)
    except OSError as error:
        raise PulseError(f"{error.filename}: {error.strerror}") from error


def backfill(arguments: argparse.Namespace) -> int:
    """See `main`."""
    file: Path = arguments.file
    mapping = _mapping(file, load(arguments.mapping, arguments.map, arguments.set))
    if ttl_days := load_local_settings().mongo.ttl_days:
        print(f"MONGO_TTL_DAYS={ttl_days} counts from now on for these events, not from their own time.")
    with tqdm(total=file.stat().st_size, desc=" reading", unit="B", unit_scale=True, disable=None) as bar:
        identity = identify(file, bar.update)
    lines = _prepared(read_lines(file), mapping, identity)
    if arguments.dry_run:
        return _check(lines, identity)
    check_ready(arguments.url)
    diary = Diary(file, identity, mapping)
    if diary.state.line:
        print(f"Goes on after line {diary.state.line:,}.")
    try:
        with tqdm(total=identity.lines, initial=diary.state.line, desc=" sending", unit=" lines", disable=None) as bar:
            _send(lines, diary, arguments.url, bar.update)
    except KeyboardInterrupt:
        print(f"\nStopped after line {diary.state.line:,}; the same command goes on there.", file=sys.stderr)
        return 130
    state = diary.state
    print(f"{state.accepted:,} events were accepted; the consumer stores each once, however often it was sent.")
    if state.refused:
        print(f"{state.refused:,} lines were refused; {diary.report_file} says which, and why.", file=sys.stderr)
        return 1
    diary.report_file.unlink()
    return 0


def _mapping(file: Path, given: LineMapping) -> LineMapping:
    """The mapping as it is given; for CSV without one, that each column is the field of its name."""
    if not is_csv(file):
        return given
    names = columns(file)
    if not given.rules:
        return replace(given, rules=[rule(name, name) for name in names])
    if missing := [one.column for one in given.rules if one.column not in names]:
        raise PulseError(f"{file} has no column {', '.join(missing)}; it has {', '.join(names)}.")
    if unused := set(names) - {one.column for one in given.rules}:
        print(f"Not mapped, so left out: {', '.join(sorted(unused))}")
    return given


def _prepared(lines: Iterable[Line], mapping: LineMapping, identity: Identity) -> Iterator[Ready | Refused]:
    for line in lines:
        try:
            yield Ready(line.number, _body(line, mapping, f"backfill-{identity.digest[:32]}-{line.number}"))
        except InvalidEventError as error:
            yield Refused(line.number, error.errors or {"line": [str(error)]})


def _body(line: Line, mapping: LineMapping, event_id: str) -> bytes:
    """The line's event for the API, with `event_id` if it has no id. Raises InvalidEventError."""
    if isinstance(line.content, InvalidEventError):
        raise line.content
    event = {"event_id": event_id, **event_of(line.content, mapping)}
    # Invalid UTF-8 stays invalid here, and is refused.
    body = json.dumps(event, ensure_ascii=False).encode(errors="surrogatepass")
    if len(body) > MAX_EVENT_BYTES:
        raise InvalidEventError(f"Has more than {MAX_EVENT_BYTES:,} bytes.")
    event_json.load_event(body)
    if "timestamp" not in event:
        raise InvalidEventError(f"timestamp: {_NO_TIME}", {"timestamp": [_NO_TIME]})
    return body


def _check(lines: Iterator[Ready | Refused], identity: Identity) -> int:
    """A dry run."""
    right, wrong = 0, 0
    with tqdm(lines, total=identity.lines, desc="checking", unit=" lines", disable=None) as bar:
        for line in bar:
            if isinstance(line, Ready):
                right += 1
            else:
                wrong += 1
                tqdm.write(json.dumps({"line": line.number, "errors": line.errors}), file=sys.stdout)
    print(f"{right:,} events would be sent, {wrong:,} lines would be refused.", file=sys.stderr)
    return 1 if wrong else 0


def _send(lines: Iterator[Ready | Refused], diary: Diary, url: str, on_progress: Callable[[int], object]) -> None:
    """Send the lines after the recorded progress; record the result of each batch."""
    with open_session() as session:
        for batch in _batches(line for line in lines if line.number > diary.state.line):
            ready = [line for line in batch if isinstance(line, Ready)]
            wrong = [line for line in batch if isinstance(line, Refused)]
            found = _deliver(session, url, ready) if ready else []
            last = batch[-1].number
            on_progress(last - diary.state.line)
            diary.add(len(ready) - len(found), sorted([*wrong, *found]), last)


def _batches(lines: Iterable[Ready | Refused]) -> Iterator[list[Ready | Refused]]:
    batch: list[Ready | Refused] = []
    size = 0
    for line in lines:
        more = len(line.event) + 1 if isinstance(line, Ready) else 0
        if len(batch) == MAX_BATCH_EVENTS or size + more > _BATCH_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(line)
        size += more
    if batch:
        yield batch


def _deliver(session: requests.Session, url: str, lines: Sequence[Ready]) -> list[Refused]:
    """Send a batch; returns the lines that the API refused although they are valid here."""
    body = b'{"events":[' + b",".join(line.event for line in lines) + b"]}"
    response = deliver(session, url, body, "?partial=true")
    told = response.json() if response.status_code in (202, 400) else {}
    if response.status_code == 202:
        errors, ids = told.get("rejected", {}), told["event_ids"]
    elif isinstance(told.get("errors", {}).get("events"), dict):
        errors, ids = told["errors"]["events"], [None] * len(lines)
    else:
        raise refused(url, response)
    # An answer omits some errors if there are too many.
    return [
        Refused(line.number, errors.get(str(index), {"line": ["Refused by the API."]}))
        for index, (line, id_) in enumerate(zip(lines, ids, strict=True))
        if id_ is None
    ]


if __name__ == "__main__":
    sys.exit(run(main))
