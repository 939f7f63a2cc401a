"""`make` checks the version of Python before it installs packages."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests import ROOT


def make_venv(tmp_path: Path, version: tuple[int, int]) -> subprocess.CompletedProcess[str]:
    """Let the Makefile create a virtual environment with a Python that reports this version."""
    python = tmp_path / "python"
    program = f"import sys; sys.version_info = {(*version, 0)}; sys.argv[1] == '-c' and exec(sys.argv[2])"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{program}" "$@"\n')
    python.chmod(0o755)
    command = ["make", f"{tmp_path}/venv/bin/pip", f"VENV={tmp_path}/venv", f"PYTHON={python}", "MAKECMDGOALS=run"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)


@pytest.mark.parametrize("version", [(3, 10), (3, 14), (4, 0)])
def test_an_unsupported_python_is_named_in_one_line_with_the_command_to_use(
    tmp_path: Path, version: tuple[int, int]
) -> None:
    made = make_venv(tmp_path, version)
    said, *rest = made.stderr.splitlines()
    assert made.returncode != 0
    assert f"is Python {version[0]}.{version[1]}, but Pulse needs 3.11, 3.12 or 3.13" in said
    assert said.endswith("Try: make run PYTHON=python3.13")
    assert [line for line in rest if not line.startswith("make: ***")] == []


@pytest.mark.parametrize("version", [(3, 11), (3, 12), (3, 13)])
def test_a_supported_python_is_accepted(tmp_path: Path, version: tuple[int, int]) -> None:
    assert make_venv(tmp_path, version).returncode == 0
