"""`.env`: the settings that it adds to the environment, and the errors about malformed lines."""

import os
from pathlib import Path

import pytest

from common.errors import EnvFileError
from common.settings import read_dotenv


@pytest.fixture(autouse=True)
def environ(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """An environment with one setting, in place of the real one."""
    environ = {"KAFKA_TOPIC": "of-the-environment"}
    monkeypatch.setattr(os, "environ", environ)
    return environ


def dotenv(folder: Path, text: str) -> Path:
    file = folder / ".env"
    file.write_text(text, "utf-8")
    return file


def test_its_settings_are_added_to_the_environment(environ: dict[str, str], tmp_path: Path) -> None:
    read_dotenv(dotenv(tmp_path, "# ours\nAPI_THREADS=8\nexport API_KEYS='web=a b'\n\nMONGO_TTL_DAYS=\n"))
    assert environ.items() >= {"API_THREADS": "8", "API_KEYS": "web=a b", "MONGO_TTL_DAYS": ""}.items()


def test_the_environment_wins(environ: dict[str, str], tmp_path: Path) -> None:
    read_dotenv(dotenv(tmp_path, "KAFKA_TOPIC=of-the-file\n"))
    assert environ["KAFKA_TOPIC"] == "of-the-environment"


def test_without_the_file_nothing_happens(environ: dict[str, str], tmp_path: Path) -> None:
    before = dict(environ)
    read_dotenv(tmp_path / ".env")
    assert environ == before


@pytest.mark.parametrize("line", ["s3cret", "API KEYS=s3cret", "API_KEYS='s3cret", "=s3cret"])
def test_the_error_about_a_malformed_line_has_its_number_and_not_its_text(tmp_path: Path, line: str) -> None:
    with pytest.raises(EnvFileError) as raised:
        read_dotenv(dotenv(tmp_path, f"# ours\nAPI_THREADS=8\n\n{line}\n"))
    assert str(raised.value) == ".env cannot be used: give NAME=value, or a comment, in line 4"


def test_the_error_about_a_file_that_is_not_utf_8_is_one_line(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"API_KEYS=\xff\n")
    with pytest.raises(EnvFileError, match=r"^\.env cannot be used: give a file that can be read \(not UTF-8\)$"):
        read_dotenv(tmp_path / ".env")
