"""The checks and messages of `make run` before it starts servers, and at its end."""

import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from common.errors import LocalStackError
from common.settings import LocalBroker, load_local_settings
from ops.local import __main__ as local
from ops.local import kafka
from ops.local.server import BROKERS


def without_java() -> None:
    raise LocalStackError("There is no Java.")


@pytest.mark.parametrize("variable", ["API_ADDR", "METRICS_ADDR", "CONSOLE_ADDR"])
def test_a_port_given_twice_is_refused(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "127.0.0.1:9092")
    with pytest.raises(LocalStackError, match=f"KAFKA_BROKERS and {variable} name the same port, 9092"):
        local.check_ports(load_local_settings())


def test_a_new_data_folder_is_created(tmp_path: Path) -> None:
    local.make_data_dir(tmp_path / "var" / "pulse")
    assert (tmp_path / "var" / "pulse" / "in-use").is_fifo()


def test_a_data_folder_is_used_again(tmp_path: Path) -> None:
    local.make_data_dir(tmp_path)
    local.make_data_dir(tmp_path)


def test_a_data_folder_in_use_is_refused_with_the_command_that_stops_its_user(tmp_path: Path) -> None:
    local.make_data_dir(tmp_path)
    (tmp_path / "pid").write_text("20777\n")
    descriptor = os.open(tmp_path / "in-use", os.O_RDWR)
    with pytest.raises(LocalStackError, match=r"Another `make run` \(process 20777\) .*: kill 20777$"):
        local.make_data_dir(tmp_path)
    os.close(descriptor)


def test_the_error_names_a_data_folder_that_cannot_be_created(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LocalStackError, match=rf"LOCAL_DATA_DIR={tmp_path}/file "):
        local.make_data_dir(tmp_path / "file")


def test_a_nearly_full_disk_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=100 << 20))
    with pytest.raises(LocalStackError, match="Only 100 MiB are free"):
        local.make_data_dir(tmp_path)


def test_kafka_is_used_where_it_is_available(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka, "check_java", lambda: None)
    monkeypatch.setattr(kafka, "jars", lambda *_: Path("libs"))
    assert local.choose_broker(load_local_settings()) == "kafka"


@pytest.mark.parametrize("there", [(), ("java",)], ids=["no Java", "no Maven"])
def test_one_line_says_what_the_stand_in_cannot_do_and_how_to_get_kafka(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], there: tuple[str, ...]
) -> None:
    for name in there:
        (tmp_path / name).write_text("#!/bin/sh\necho 'openjdk version \"17.0.15\"' >&2\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("LOCAL_DATA_DIR", str(tmp_path / "var"))
    assert local.choose_broker(load_local_settings()) == "noida"
    (line,) = capsys.readouterr().out.splitlines()
    assert "kill -9 of it loses events" in line
    assert "a consumer that dies keeps the next one from getting events" in line
    assert line.endswith(f"To get it: {kafka.install_command()}")


@pytest.mark.parametrize(
    ("platform", "command"),
    [("linux", "sudo apt install default-jre-headless maven"), ("darwin", "brew install temurin@17 maven")],
)
def test_the_command_is_the_one_of_the_platform(monkeypatch: pytest.MonkeyPatch, platform: str, command: str) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    assert kafka.install_command() == command


def test_a_requested_kafka_that_is_not_available_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka, "check_java", without_java)
    monkeypatch.setenv("LOCAL_BROKER", "kafka")
    with pytest.raises(LocalStackError, match=r"There is no Java\.\n.*LOCAL_BROKER=noida"):
        local.choose_broker(load_local_settings())


def test_noida_is_used_on_request(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("LOCAL_BROKER", "noida")
    assert local.choose_broker(load_local_settings()) == "noida"
    assert "first look only" in capsys.readouterr().out


@pytest.mark.parametrize(("before", "now"), [("noida", "kafka"), ("kafka", "noida")])
def test_a_change_of_broker_warns_of_events_in_the_other_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], before: LocalBroker, now: LocalBroker
) -> None:
    local.warn_of_the_other_broker(tmp_path / "broker", before)
    local.warn_of_the_other_broker(tmp_path / "broker", now)
    said = capsys.readouterr().out
    assert f"in {BROKERS[before]} that may not be stored yet; this run uses {BROKERS[now]}." in said
    assert f"LOCAL_BROKER={before} make run" in said


def test_the_same_broker_as_in_the_last_run_causes_no_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    local.warn_of_the_other_broker(tmp_path / "broker", "kafka")
    local.warn_of_the_other_broker(tmp_path / "broker", "kafka")
    assert capsys.readouterr().out == ""


def test_the_last_line_names_the_ended_part_its_status_and_the_kept_events(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_BROKER", "noida")
    said = local.farewell("consumer", -9)
    assert said.startswith(
        "The consumer ended (killed by SIGKILL), so everything was stopped. What was accepted is kept"
    )


def test_the_last_line_names_events_that_noida_may_have_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_BROKER", "noida")
    assert local.farewell("broker", 1).endswith("noida-db may have lost the events of its last seconds.")
