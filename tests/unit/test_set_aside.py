"""`python -m api.journal` lists and restores damaged journals."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from api.journal.__main__ import cli
from api.journal.folders import claim, claim_left_behind, claim_own, open_journal, restored_folder, set_aside_files
from api.journal.journal import DATA
from common.errors import JournalError
from tests.journals import journalled

EVENTS = [journalled(number) for number in range(2000)]


def left_behind(root: Path) -> Iterator[list[bytes]]:
    """The events of each journal without a worker, as the next worker reads them."""
    for claimed in claim_left_behind(root, unexpected):
        journal = open_journal(claimed.folder, max_bytes=1024 * 1024, sync=False)
        yield journal.read(0, 1_000_000)[0]
        journal.close()
        claimed.release()


def unexpected(folder: Path, error: JournalError) -> None:
    pytest.fail(f"{folder}: {error}")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of journals with one damaged journal set aside, whose folder belongs to a live worker."""
    monkeypatch.setenv("API_JOURNAL_DIR", str(tmp_path))
    claimed = claim_own(tmp_path)
    journal = open_journal(claimed.folder, max_bytes=8 * 1024 * 1024, sync=False)
    for event in EVENTS:
        journal.append([event])
    journal.close()
    damage(claimed.folder / DATA)
    open_journal(claimed.folder, max_bytes=8 * 1024 * 1024, sync=False).close()
    yield tmp_path
    claimed.release()


def damage(file: Path) -> None:
    """Make one event unreadable."""
    file.write_bytes(file.read_bytes().replace(EVENTS[77], EVENTS[77].replace(b":", b"\0")))


def run(*arguments: str) -> Result:
    result = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


def test_list_shows_each_file_and_its_events(root: Path) -> None:
    output = run("list").output
    assert output.splitlines()[0] == f"API_JOURNAL_DIR={root}: 1 set aside"
    assert "1999 events" in output


def test_list_changes_nothing(root: Path) -> None:
    before = sorted(root.rglob("*"))
    run("list")
    assert sorted(root.rglob("*")) == before


def test_restore_gives_the_readable_events_to_the_next_worker(root: Path) -> None:
    run("restore")
    assert EVENTS[:77] + EVENTS[78:] in list(left_behind(root))


def test_a_restored_file_is_kept_under_another_name(root: Path) -> None:
    file = set_aside_files(root)[0].file
    contents = file.read_bytes()
    run("restore")
    assert set_aside_files(root) == []
    assert [kept.read_bytes() for kept in root.glob("worker-0/restored-*.mdb")] == [contents]


def test_restoring_twice_restores_once(root: Path) -> None:
    run("restore")
    run("restore")
    assert len(list(root.glob("worker-restored-*"))) == 1


def test_a_killed_restore_is_repeated(root: Path) -> None:
    making, _ = restored_folder(root, set_aside_files(root)[0].file)
    making.mkdir()
    (making / DATA).write_bytes(b"half of it")
    run("restore")
    assert sum(map(len, left_behind(root))) == 1999


def test_a_restore_killed_at_its_end_is_finished(root: Path) -> None:
    file = set_aside_files(root)[0].file
    run("restore")
    next(root.glob("worker-0/restored-*.mdb")).rename(file)
    run("restore")
    assert set_aside_files(root) == []
    assert sum(map(len, left_behind(root))) == 1999


def test_a_second_concurrent_restore_is_refused(root: Path) -> None:
    making, _ = restored_folder(root, set_aside_files(root)[0].file)
    making.mkdir()
    other = claim(making)
    assert other is not None
    with pytest.raises(JournalError, match="another process restores"):
        run("restore")
    other.release()


def test_a_file_without_readable_events_stays(root: Path) -> None:
    file = set_aside_files(root)[0].file
    file.write_bytes(b"invalid")
    assert "no event can be read" in run("restore").output
    assert [aside.file for aside in set_aside_files(root)] == [file]
    assert list(root.glob("*restor*")) == []


def test_an_error_is_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "api.journal", "list"]
    ended = subprocess.run(
        command, env={"API_JOURNAL_MAX_BYTES": "much"}, capture_output=True, text=True, check=False, timeout=60
    )
    assert ended.returncode == 1
    assert ended.stderr.startswith("api.journal: API_JOURNAL_MAX_BYTES=much is not allowed")
    assert len(ended.stderr.splitlines()) == 1
