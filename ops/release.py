"""`make release VERSION=0.3.0`: checks that this commit can be released, releases it, and lists what is left to do.

A release is a commit that gives the changelog's section *Unreleased* its version and date, and a tag on that commit.
"""

import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import click

from common.errors import ReleaseError

ROOT = Path(__file__).parent.parent
_BUILD_INFO = "common/build_info.py"
_CHANGELOG = "CHANGELOG.md"
_VERSION = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)")
_UNRELEASED = re.compile(r"^## Unreleased\b.*\n(?P<entries>(?:(?!## ).*\n)*)", re.MULTILINE)
_RELEASED = re.compile(r"^## (\d+\.\d+\.\d+) \(\d{4}-\d\d-\d\d\)$", re.MULTILINE)

LEFT_TO_DO = """\
Left to do:
  git push origin main v{version}
  Build the images, roll them out: docs/deployment.md, "A release".
Until the push, this takes all of it back:
  git tag --delete v{version} && git reset --hard HEAD~1"""


@click.command()
@click.argument("version")
def main(version: str) -> None:
    """Release VERSION. Runs all checks and tests first, which takes half an hour; changes nothing if one fails."""
    try:
        release(ROOT, version, [["make", "lint"], ["make", "test"], ["make", "compose-test"]])
    except ReleaseError as error:
        sys.exit(str(error))
    click.echo(LEFT_TO_DO.format(version=version))


def release(root: Path, version: str, checks: list[list[str]]) -> None:
    """Commit and tag `version` in the checkout `root`, if each command in `checks` succeeds.

    Blocks as long as the checks run. Raises ReleaseError, having changed nothing.
    """
    changelog = (root / _CHANGELOG).read_text()
    released = cut(changelog, version, datetime.now(UTC).strftime("%Y-%m-%d"))
    if _git(root, "status", "--porcelain"):
        raise ReleaseError("The working tree has changes that are not committed: commit or stash them.")
    if (branch := _git(root, "branch", "--show-current")) != "main":
        raise ReleaseError(f"This is the branch {branch or '(none)'}: a release is made on main.")
    if _git(root, "tag", "--list", f"v{version}"):
        raise ReleaseError(f"The tag v{version} exists: take the next version.")
    for check in checks:
        click.echo(f"Running {' '.join(check)} …")
        if subprocess.run(check, cwd=root, check=False).returncode:
            raise ReleaseError(f"`{' '.join(check)}` failed: nothing was released.")
    (root / _CHANGELOG).write_text(released)
    build_info = root / _BUILD_INFO
    build_info.write_text(
        re.sub(r'^VERSION = ".*"$', f'VERSION = "{version}"', build_info.read_text(), flags=re.MULTILINE)
    )
    _git(root, "commit", "--quiet", "--message", f"Release {version}", "--", _CHANGELOG, _BUILD_INFO)
    _git(root, "tag", "--annotate", "--message", f"Pulse Pipeline {version}", f"v{version}")


def cut(changelog: str, version: str, day: str) -> str:
    """The changelog in which the section *Unreleased* is that of `version`, of that day, below a new empty one.

    Raises ReleaseError if the version is malformed or not above the last one, or there is nothing to release.
    """
    if _VERSION.fullmatch(version) is None:
        raise ReleaseError(f"{version} is not a version: write it as MAJOR.MINOR.PATCH, such as 1.4.0.")
    section = _UNRELEASED.search(changelog)
    if section is None or not section["entries"].strip():
        raise ReleaseError(f"{_CHANGELOG} has no entries under *Unreleased*: there is nothing to release.")
    last = max(map(_numbers, _RELEASED.findall(changelog)), default=(0, 0, 0))
    if _numbers(version) <= last:
        raise ReleaseError(f"{version} is not above the last release, {'.'.join(map(str, last))}.")
    heading = f"## Unreleased\n\n## {version} ({day})\n"
    return changelog[: section.start()] + heading + section["entries"] + changelog[section.end() :]


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False, timeout=60)
    if done.returncode:
        raise ReleaseError(f"git {arguments[0]}: {done.stderr.strip()}")
    return done.stdout.strip()


if __name__ == "__main__":
    main(prog_name="python -m ops.release")
