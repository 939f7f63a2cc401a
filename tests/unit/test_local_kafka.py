"""Kafka's jars and data folder, with scripts in place of java and mvn."""

import os
from pathlib import Path

import pytest

from common.errors import LocalStackError
from ops.local import kafka

FETCHES = """
for argument; do case $argument in -DoutputDirectory=*) into=${argument#*=};; esac; done
mkdir "$into"; touch "$into/kafka.jar"
"""


@pytest.fixture
def bin_dir(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder that is first in the PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.defpath}")
    return folder


def script(path: Path, body: str) -> None:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


def silent(_: str) -> None:
    pass


@pytest.mark.parametrize("version", ["17.0.15", "21", "25.0.1"])
def test_a_current_java_is_accepted(bin_dir: Path, version: str) -> None:
    script(bin_dir / "java", f"echo 'openjdk version \"{version}\" 2025-04-15' >&2")
    kafka.check_java()


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ("echo 'java version \"1.8.0_402\"' >&2", "Java 1"),
        ("echo 'version \"11.0.2\"' >&2", "Java 11"),
        ("exit 1", "none"),
    ],
)
def test_an_old_or_missing_java_is_named(bin_dir: Path, body: str, found: str) -> None:
    script(bin_dir / "java", body)
    with pytest.raises(LocalStackError, match=rf"Java 17 or newer .*found: {found}\)"):
        kafka.check_java()


def test_jars_are_fetched_once(bin_dir: Path, tmp_path: Path) -> None:
    script(bin_dir / "mvn", FETCHES)
    libs = kafka.jars(tmp_path / "cache", silent)
    (bin_dir / "mvn").unlink()
    assert kafka.jars(tmp_path / "cache", silent) == libs
    assert [file.name for file in libs.iterdir()] == ["kafka.jar"]


def test_a_new_version_of_kafka_is_fetched_into_its_own_folder(
    bin_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(bin_dir / "mvn", FETCHES)
    old = kafka.jars(tmp_path / "cache", silent)
    pom = tmp_path / "pom.xml"
    pom.write_text("<project><version>5.0.0</version></project>")
    monkeypatch.setattr(kafka, "POM", pom)
    assert kafka.jars(tmp_path / "cache", silent) != old


def test_a_failed_fetch_reports_its_cause_and_leaves_no_files(bin_dir: Path, tmp_path: Path) -> None:
    script(bin_dir / "mvn", FETCHES + "echo '[ERROR] Connection refused -> [Help 1]'; exit 1")
    with pytest.raises(LocalStackError, match=r"Connection refused\.$"):
        kafka.jars(tmp_path / "cache", silent)
    assert list((tmp_path / "cache").iterdir()) == []


def test_the_error_names_a_missing_maven(bin_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(bin_dir))
    with pytest.raises(LocalStackError, match="no mvn"):
        kafka.jars(tmp_path / "cache", silent)


def test_the_progress_of_a_fetch_is_reported(bin_dir: Path, tmp_path: Path) -> None:
    script(bin_dir / "mvn", FETCHES + 'for i in $(seq 45); do echo "[INFO] Downloaded from central: $i"; done')
    told: list[str] = []
    kafka.jars(tmp_path / "cache", told.append)
    assert [line.split()[0] for line in told[1:]] == ["20", "40"]


def test_a_folder_is_formatted_until_it_has_metadata(bin_dir: Path, tmp_path: Path) -> None:
    script(bin_dir / "java", f"echo format >> {tmp_path}/calls")
    kafka.prepare(tmp_path, 9092, tmp_path)
    kafka.prepare(tmp_path, 9092, tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "meta.properties").touch()
    kafka.prepare(tmp_path, 9092, tmp_path)
    assert (tmp_path / "calls").read_text().split() == ["format", "format"]


def test_a_folder_that_cannot_be_formatted_is_named(bin_dir: Path, tmp_path: Path) -> None:
    script(bin_dir / "java", "echo 'No space left' >&2; exit 1")
    with pytest.raises(LocalStackError, match=rf"{tmp_path}/data: No space left"):
        kafka.prepare(tmp_path, 9092, tmp_path)


def test_the_broker_listens_on_and_advertises_the_given_port(bin_dir: Path, tmp_path: Path) -> None:
    script(bin_dir / "java", "")
    config = Path(kafka.prepare(tmp_path, 19092, tmp_path)[-1]).read_text()
    assert "listeners=PLAINTEXT://127.0.0.1:19092,CONTROLLER://" in config
    assert "advertised.listeners=PLAINTEXT://127.0.0.1:19092\n" in config
