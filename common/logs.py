"""Logging: one JSON object per line, or text for people, to standard error.

Log what happened as a fixed message and everything that varies as `extra={…}`; never event contents or secrets.
"""

import logging
import os
import random
import sys
import time
from contextvars import ContextVar
from typing import Any, Final

from common.environment import effective
from common.settings import ApiSettings, ConsoleSettings, ConsumerSettings, ExportSettings, LogSettings
from common.terminal import printable

request_id: Final[ContextVar[str | None]] = ContextVar("request_id", default=None)
"""The id of the current HTTP request, added to each of its log lines."""

# ANSI: faint, yellow, red.
_FAINT = 2
_COLORS = {"DEBUG": _FAINT, "WARNING": 33, "ERROR": 31, "CRITICAL": 31}
_PLAIN_ATTRIBUTES = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def new_request_id() -> str:
    """An id for a request without one. It is not a secret, so it needs no system call."""
    return f"{random.getrandbits(128):032x}"


class AddRequestId(logging.Filter):
    """Adds the current request's id to each record without one."""

    def filter(self, record: logging.LogRecord) -> bool:
        current = request_id.get()
        if current is not None and not hasattr(record, "request_id"):
            record.request_id = current
        return True


class TextFormatter(logging.Formatter):
    """A line to read: the message, then the extras as key=value.

    On a terminal with the time (UTC) and in colour. Elsewhere another program adds the time: the printer of `make run`,
    Docker, journald.
    """

    converter = staticmethod(time.gmtime)

    def __init__(self, *, on_terminal: bool, colors: bool = True) -> None:
        super().__init__("%(levelname)-7s %(name)s: %(message)s")
        self._on_terminal = on_terminal
        self._colors = colors

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802, the base class names it
        extras = "".join(f" {key}={value}" for key, value in vars(record).items() if key not in _PLAIN_ATTRIBUTES)
        line, extras = printable(super().formatMessage(record)), printable(extras)
        if not self._on_terminal:
            return line + extras
        now = f"{self.formatTime(record, '%H:%M:%S')}.{int(record.msecs):03}Z "
        color = _COLORS.get(record.levelname)
        return self._in(_FAINT, now) + self._in(color, line) + self._in(_FAINT, extras)

    def _in(self, color: int | None, text: str) -> str:
        return f"\033[{color}m{text}\033[0m" if color and text and self._colors else text


def log_settings(process: str, settings: ApiSettings | ConsumerSettings | ConsoleSettings | ExportSettings) -> None:
    """Log the settings in use, without secrets: as JSON all; as text, for people, those that differ from the defaults.

    For the start of a process.
    """
    values = effective(type(settings), all_of_them=settings.log.format == "json")
    logging.getLogger(process).info("settings", extra=values)


def logging_config(settings: LogSettings) -> dict[str, Any]:
    """A configuration for `logging.config.dictConfig`, also for gunicorn."""
    level = settings.level.upper()
    # The Kafka client logs each failed attempt; we log outages ourselves, once.
    kafka_level = "WARNING" if level == "DEBUG" else "CRITICAL"
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "filters": {"request_id": {"()": AddRequestId}},
        "formatters": {
            "json": {
                "()": "pythonjsonlogger.json.JsonFormatter",
                # The process id, since the API has several workers, each with its own queue and journal.
                "fmt": ["levelname", "process", "name", "message"],
                "rename_fields": {"levelname": "level", "process": "pid", "name": "logger"},
                "timestamp": True,
            },
            "text": {
                "()": TextFormatter,
                "on_terminal": sys.stderr.isatty(),
                "colors": not os.environ.get("NO_COLOR"),
            },
        },
        "handlers": {
            "stderr": {"class": "logging.StreamHandler", "formatter": settings.format, "filters": ["request_id"]}
        },
        "root": {"level": level, "handlers": ["stderr"]},
        "loggers": {
            "kafka": {"level": kafka_level},
            "pymongo": {"level": "WARNING"},
            # gunicorn's debug lines are only about itself.
            "gunicorn.error": {"level": "INFO" if level == "DEBUG" else level, "handlers": [], "propagate": True},
        },
    }
