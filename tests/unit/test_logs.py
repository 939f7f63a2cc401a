"""What a log line looks like."""

import json
import logging
import logging.config
from collections.abc import Iterator

import pytest

from common.logs import logging_config, request_id
from common.settings import LogFormat, LogSettings


@pytest.fixture(autouse=True)
def restore_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def lines(capsys: pytest.CaptureFixture[str], format_: LogFormat, level: str = "info") -> list[str]:
    logging.config.dictConfig(logging_config(LogSettings(level, format_)))
    logger = logging.getLogger("test")
    logger.debug("small")
    logger.info("event accepted", extra={"event_id": "e-1"})
    return capsys.readouterr().err.splitlines()


def test_json_is_one_object_a_line_with_the_extras(capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = lines(capsys, "json")
    logged = json.loads(line)
    assert logged.pop("timestamp").endswith("+00:00")
    assert logged == {"level": "INFO", "logger": "test", "message": "event accepted", "event_id": "e-1"}


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


def test_the_request_id_stands_in_every_line_of_a_request(capsys: pytest.CaptureFixture[str]) -> None:
    token = request_id.set("r-1")
    (line,) = lines(capsys, "json")
    request_id.reset(token)
    assert json.loads(line)["request_id"] == "r-1"


def test_the_level_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    assert len(lines(capsys, "json", level="debug")) == 2


def test_the_kafka_clients_own_noise_is_off(capsys: pytest.CaptureFixture[str]) -> None:
    lines(capsys, "json")
    logging.getLogger("kafka.conn").error("connect failed")
    assert capsys.readouterr().err == ""
