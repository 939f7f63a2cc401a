"""The form of a log line."""

import json
import logging
import logging.config
import os
from collections.abc import Iterator

import pytest

from common.logs import TextFormatter, logging_config, request_id
from common.settings import LogFormat, LogLevel, LogSettings


@pytest.fixture(autouse=True)
def restore_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def lines(capsys: pytest.CaptureFixture[str], format_: LogFormat, level: LogLevel = "info") -> list[str]:
    logging.config.dictConfig(logging_config(LogSettings(level, format_)))
    logger = logging.getLogger("test")
    logger.debug("small")
    logger.info("event accepted", extra={"event_id": "e-1"})
    return capsys.readouterr().err.splitlines()


def test_json_has_one_object_per_line_with_the_extra_values(capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = lines(capsys, "json")
    logged = json.loads(line)
    assert logged.pop("timestamp").endswith("+00:00")
    assert logged == {
        "level": "INFO",
        "pid": os.getpid(),
        "logger": "test",
        "message": "event accepted",
        "event_id": "e-1",
    }


def test_a_trace_stays_on_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    logging.config.dictConfig(logging_config(LogSettings("info", "json")))
    try:
        int("why")
    except ValueError:
        logging.getLogger("test").exception("failed")
    (line,) = capsys.readouterr().err.splitlines()
    assert "ValueError: invalid literal" in json.loads(line)["exc_info"]


def test_text_is_readable(capsys: pytest.CaptureFixture[str]) -> None:
    assert lines(capsys, "text") == ["INFO    test: event accepted event_id=e-1"]


def record(level: int = logging.WARNING, **extra: str) -> logging.LogRecord:
    fields = {"name": "test", "levelno": level, "levelname": logging.getLevelName(level), "msg": "the disk is full"}
    return logging.makeLogRecord({**fields, "created": 1769860800.5, "msecs": 500.0, **extra})


def test_text_on_a_terminal_has_the_time_in_utc() -> None:
    formatter = TextFormatter(on_terminal=True, colors=False)
    assert formatter.format(record(free="0")) == "12:00:00.500Z WARNING test: the disk is full free=0"


def test_text_on_a_terminal_is_coloured_by_its_level() -> None:
    formatter = TextFormatter(on_terminal=True)
    assert "\033[33mWARNING" in formatter.format(record())
    assert "\033[31mERROR" in formatter.format(record(logging.ERROR))


def test_text_in_a_file_has_no_colours() -> None:
    assert TextFormatter(on_terminal=False).format(record()) == "WARNING test: the disk is full"


def test_no_value_can_control_a_terminal_or_forge_a_line() -> None:
    text = TextFormatter(on_terminal=False).format(record(error="\033[2J\nINFO    test: all is well"))
    assert text == r"WARNING test: the disk is full error=\x1b[2J\nINFO    test: all is well"


def test_every_line_of_a_request_has_its_id(capsys: pytest.CaptureFixture[str]) -> None:
    token = request_id.set("r-1")
    (line,) = lines(capsys, "json")
    request_id.reset(token)
    assert json.loads(line)["request_id"] == "r-1"


def test_the_level_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    assert len(lines(capsys, "json", level="debug")) == 2


@pytest.mark.parametrize(("level", "logged"), [("info", []), ("debug", ["connect failed"])])
def test_the_kafka_clients_lines_are_logged_only_as_warnings_at_level_debug(
    capsys: pytest.CaptureFixture[str], level: LogLevel, logged: list[str]
) -> None:
    """At level debug, its warnings are logged too, but not its many lines of level info and debug."""
    lines(capsys, "json", level)
    logger = logging.getLogger("kafka.conn")
    logger.debug("sending request")
    logger.info("connecting")
    logger.warning("connect failed")
    assert [json.loads(line)["message"] for line in capsys.readouterr().err.splitlines()] == logged
