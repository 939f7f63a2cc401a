"""The journals' folders: which worker owns one, when a journal is set aside, and which faults stop the start."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from api.journal.folders import claim_left_behind, claim_own, open_journal, set_aside_files
from api.journal.journal import DATA, Journal
from common.errors import JournalError
from tests import MIB, ROOT
from tests.journals import journalled
from tests.small_disks import MountError, mounted


@pytest.fixture
def reopen(tmp_path: Path) -> Iterator[Callable[[], Journal]]:
    """A function that opens the journal of worker-0 again, as the next process does."""
    opened: list[Journal] = []

    def reopen() -> Journal:
        close_all()
        folder = tmp_path / "worker-0"
        folder.mkdir(exist_ok=True)
        opened.append(open_journal(folder, max_bytes=8 * MIB, sync=False))
        return opened[-1]

    def close_all() -> None:
        while opened:
            opened.pop().close()

    yield reopen
    close_all()


@pytest.fixture
def data(reopen: Callable[[], Journal], tmp_path: Path) -> Path:
    """The file of a closed journal of 2,000 events."""
    journal = reopen()
    for number in range(2000):
        journal.append([journalled(number)])
    journal.close()
    return tmp_path / "worker-0" / DATA


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[: len(data) // 2],
        lambda data: data[:8192] + b"\0" * (len(data) - 8192),
        lambda data: b"invalid" * 10_000,
        lambda data: data.replace(journalled(77), journalled(77).replace(b":", b"\0")),
        lambda data: data.replace(journalled(77), journalled(77).replace(b"event_id", b"event-id")),
    ],
    ids=["cut off", "zeroed", "overwritten", "no JSON", "no event"],
)
def test_a_damaged_journal_is_set_aside(
    damage: Callable[[bytes], bytes], data: Path, reopen: Callable[[], Journal], tmp_path: Path
) -> None:
    data.write_bytes(damaged := damage(data.read_bytes()))
    assert reopen().events == 0
    assert [aside.file.read_bytes() for aside in set_aside_files(tmp_path)] == [damaged]


def test_the_name_of_a_journal_set_aside_has_its_number_of_readable_events(
    data: Path, reopen: Callable[[], Journal], tmp_path: Path
) -> None:
    data.write_bytes(data.read_bytes().replace(journalled(77), journalled(77).replace(b":", b"\0")))
    reopen()
    assert [aside.events for aside in set_aside_files(tmp_path)] == [1999]


def test_a_journal_set_aside_by_an_earlier_version_counts_as_one_event(tmp_path: Path) -> None:
    """An earlier version did not write the number of events into the name."""
    (tmp_path / "worker-0").mkdir()
    (tmp_path / "worker-0" / "damaged-20260131T120000Z.mdb").touch()
    assert [aside.events for aside in set_aside_files(tmp_path)] == [1]


def test_a_second_damaged_journal_is_set_aside_next_to_the_first(
    data: Path, reopen: Callable[[], Journal], tmp_path: Path
) -> None:
    for count in (1, 2):
        data.write_bytes(b"invalid" * 10_000)
        reopen().close()
        assert len(set_aside_files(tmp_path)) == count


@pytest.mark.parametrize("contents", [b"", b"invalid" * 1000], ids=["empty", "invalid"])
def test_a_broken_lock_file_of_lmdb_is_no_damage(data: Path, reopen: Callable[[], Journal], contents: bytes) -> None:
    """Only earlier versions used that file, and it never has events."""
    data.with_name("lock.mdb").write_bytes(contents)
    data.with_name("lock.mdb").chmod(0)
    assert reopen().events == 2000


def test_a_folder_with_a_name_that_is_not_utf_8_works(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"sp\xe9cial")
    folder.mkdir()
    for _ in range(2):
        journal = open_journal(folder, max_bytes=MIB, sync=False)
        journal.append([journalled(journal.events)])
        journal.close()
    assert open_journal(folder, max_bytes=MIB, sync=False).events == 2


OPEN = (
    "import sys; from pathlib import Path; from api.journal.folders import *; from common.errors import JournalError\n"
)
ATTEMPT = """
try:
    claim = claim_own(Path(sys.argv[1]))
    print(open_journal(claim.folder, max_bytes=1 << 20, sync=False).events)
except JournalError as error:
    print(error)
"""
WITHOUT_PRIVILEGES = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all"]


def attempt(root: Path, *, before: str = "", prefix: list[str] | None = None) -> str:
    """The output of a process that opens the first journal, without root's right to read all files."""
    rights = WITHOUT_PRIVILEGES if os.geteuid() == 0 else []
    script = f"{OPEN}{before}{ATTEMPT}"
    command = [*(prefix or rights), sys.executable, "-c", script, str(root)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


def is_left_alone(data: Path, said: str) -> None:
    """The process did not open the journal or set it aside, and the error names the setting."""
    assert said.startswith("API_JOURNAL_DIR: ")
    assert "\n" not in said
    assert [file.name for file in data.parent.glob("*.mdb")] == [DATA]


def test_a_file_of_another_user_stops_the_start(data: Path, tmp_path: Path) -> None:
    data.chmod(0)
    said = attempt(tmp_path)
    is_left_alone(data, said)
    assert "Permission denied" in said
    assert "to the user that runs the API" in said
    data.chmod(0o600)
    assert attempt(tmp_path) == "2000"


def test_a_lock_of_another_user_stops_the_start(data: Path, tmp_path: Path) -> None:
    claim_own(tmp_path).release()
    data.with_name("owner.lock").chmod(0)
    said = attempt(tmp_path)
    is_left_alone(data, said)
    assert "Permission denied" in said


def test_a_folder_without_write_permission_stops_the_start(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    said = attempt(tmp_path)
    tmp_path.chmod(0o700)
    assert "Permission denied" in said


@pytest.mark.parametrize("free", range(6))
def test_too_few_open_files_stop_the_start(data: Path, tmp_path: Path, free: int) -> None:
    """With any number of descriptors, the journal opens, or the error has the cause."""
    limit = (
        "import os, resource\n"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir('/proc/self/fd')) - 1 + {free}, 4096))\n"
    )
    said = attempt(tmp_path, before=limit)
    if said != "2000":
        is_left_alone(data, said)
        assert "Too many open files" in said
        assert "ulimit -n" in said
    assert attempt(tmp_path) == "2000"


def test_too_little_memory_stops_the_start(data: Path, tmp_path: Path) -> None:
    limit = (
        "import resource\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + (32 << 20), -1))\n"
    )
    said = attempt(tmp_path, before=limit)
    is_left_alone(data, said)
    assert "Cannot allocate memory" in said or "MemoryError" in said


def test_a_full_disk_without_a_journal_stops_the_start(tmp_path: Path) -> None:
    try:
        with mounted(tmp_path, 4096):
            said = attempt(tmp_path)
    except MountError as error:
        pytest.skip(str(error))
    assert "No space left on device" in said
    assert "make room on its disk" in said


def test_a_journal_of_another_version_of_lmdb_stops_the_start(data: Path, tmp_path: Path) -> None:
    written = data.read_bytes()
    data.write_bytes(written[:20] + b"\7" + written[21:4096] + written[4096 : 4096 + 20] + b"\7" + written[4096 + 21 :])
    said = attempt(tmp_path)
    is_left_alone(data, said)
    assert "run that version until it has sent all events" in said


def test_a_path_that_is_a_file_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "give a path that is a folder" in attempt(tmp_path / "file")


def test_a_journal_that_cannot_be_checked_is_left_alone(
    data: Path, reopen: Callable[[], Journal], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(JournalError, match="checks it failed"):
        reopen()
    monkeypatch.undo()
    assert reopen().events == 2000


def test_a_killed_check_leaves_the_journal_alone(
    data: Path, reopen: Callable[[], Journal], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel kills the check when memory is short."""
    killed = tmp_path / "killed"
    killed.write_text("#!/bin/sh\nkill -9 $$\n")
    killed.chmod(0o700)
    monkeypatch.setattr("sys.executable", str(killed))
    with pytest.raises(JournalError, match="ended by SIGKILL"):
        reopen()
    monkeypatch.undo()
    assert reopen().events == 2000


def test_each_worker_has_a_folder_of_its_own(tmp_path: Path) -> None:
    claims = [claim_own(tmp_path) for _ in range(3)]
    assert [claim.folder.name for claim in claims] == ["worker-0", "worker-1", "worker-2"]
    for claim in claims:
        claim.release()


def test_a_new_worker_takes_the_folder_of_a_dead_one(tmp_path: Path) -> None:
    first, second = claim_own(tmp_path), claim_own(tmp_path)
    first.release()
    again = claim_own(tmp_path)
    assert again.folder == first.folder
    again.release()
    second.release()


def test_only_the_folders_of_dead_workers_are_left_behind(tmp_path: Path) -> None:
    dead, living = claim_own(tmp_path), claim_own(tmp_path)
    dead.release()
    found = []
    for claim in claim_left_behind(tmp_path, unexpected):
        found.append(claim.folder)
        claim.release()
    assert found == [dead.folder]
    living.release()


def test_a_folder_that_cannot_be_claimed_is_reported_and_the_others_are_found(tmp_path: Path) -> None:
    for claim in [claim_own(tmp_path) for _ in range(2)]:
        claim.release()
    (tmp_path / "worker-0" / "owner.lock").unlink()
    (tmp_path / "worker-0" / "owner.lock").mkdir()
    told = []
    found = list(claim_left_behind(tmp_path, lambda folder, error: told.append((folder.name, str(error)))))
    assert [claim.folder.name for claim in found] == ["worker-1"]
    assert [(name, "Is a directory" in error) for name, error in told] == [("worker-0", True)]
    found[0].release()


def unexpected(folder: Path, error: JournalError) -> None:
    pytest.fail(f"{folder}: {error}")
