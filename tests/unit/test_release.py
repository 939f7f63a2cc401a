"""`make release`: its checks and its changes."""

import subprocess
from pathlib import Path

import pytest

from common.errors import ReleaseError
from ops.release import cut, release

CHANGELOG = """# Changelog

What users notice.

## Unreleased (0.2.0)

### Added
- A thing.

## 0.1.0 (2026-01-31)

- The first.
"""
FAILS, SUCCEEDS = ["false"], ["true"]


def git(root: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for who in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{who}_NAME", "A Maintainer")
        monkeypatch.setenv(f"GIT_{who}_EMAIL", "maintainer@example.com")
    git(tmp_path, "init", "--quiet", "--initial-branch", "main")
    (tmp_path / "CHANGELOG.md").write_text(CHANGELOG)
    (tmp_path / "common").mkdir()
    (tmp_path / "common" / "build_info.py").write_text('"""The version."""\n\nVERSION = "0.1.0"\n')
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "Begin")
    return tmp_path


def test_the_unreleased_entries_move_to_the_section_of_the_version() -> None:
    released = cut(CHANGELOG, "0.2.0", "2026-02-28")
    assert "## Unreleased\n\n## 0.2.0 (2026-02-28)\n\n### Added\n- A thing.\n\n## 0.1.0 (2026-01-31)\n" in released


@pytest.mark.parametrize("version", ["0.2", "v0.2.0", "0.2.0-rc1", "00.2.0", "", "0.2.0\n"])
def test_a_malformed_version_is_refused(version: str) -> None:
    with pytest.raises(ReleaseError, match=r"write it as MAJOR\.MINOR\.PATCH"):
        cut(CHANGELOG, version, "2026-02-28")


@pytest.mark.parametrize("version", ["0.1.0", "0.0.9"])
def test_a_version_that_is_not_above_the_last_is_refused(version: str) -> None:
    with pytest.raises(ReleaseError, match=r"not above the last release, 0\.1\.0"):
        cut(CHANGELOG, version, "2026-02-28")


def test_without_entries_there_is_nothing_to_release() -> None:
    with pytest.raises(ReleaseError, match="nothing to release"):
        cut(cut(CHANGELOG, "0.2.0", "2026-02-28"), "0.3.0", "2026-03-31")


def test_a_release_is_a_commit_with_both_files_and_a_tag(checkout: Path) -> None:
    release(checkout, "0.2.0", [SUCCEEDS])
    assert git(checkout, "describe") == "v0.2.0"
    assert git(checkout, "log", "-1", "--format=%s") == "Release 0.2.0"
    assert git(checkout, "show", "--name-only", "--format=").splitlines() == ["CHANGELOG.md", "common/build_info.py"]
    assert 'VERSION = "0.2.0"\n' in (checkout / "common" / "build_info.py").read_text()
    assert git(checkout, "status", "--porcelain") == ""


def test_a_failed_check_changes_nothing(checkout: Path) -> None:
    before = git(checkout, "rev-parse", "HEAD")
    with pytest.raises(ReleaseError, match="`false` failed: nothing was released"):
        release(checkout, "0.2.0", [SUCCEEDS, FAILS])
    assert (git(checkout, "rev-parse", "HEAD"), git(checkout, "status", "--porcelain"), git(checkout, "tag")) == (
        before,
        "",
        "",
    )


def test_uncommitted_changes_stop_the_release(checkout: Path) -> None:
    (checkout / "new.txt").write_text("new")
    with pytest.raises(ReleaseError, match="commit or stash them"):
        release(checkout, "0.2.0", [])


def test_another_branch_stops_the_release(checkout: Path) -> None:
    git(checkout, "switch", "--quiet", "--create", "idea")
    with pytest.raises(ReleaseError, match="branch idea"):
        release(checkout, "0.2.0", [])


def test_a_version_that_was_tagged_is_refused(checkout: Path) -> None:
    git(checkout, "tag", "v0.2.0")
    with pytest.raises(ReleaseError, match=r"tag v0\.2\.0 exists"):
        release(checkout, "0.2.0", [])
