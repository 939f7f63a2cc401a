"""Logging: one JSON object a line, or readable text, to standard error.

Log what happened as a fixed message and everything that varies as `extra={…}`; never event contents or secrets.
"""

import logging
from contextvars import ContextVar
from typing import Any, Final

from common.settings import LogSettings

request_id: Final[ContextVar[str | None]] = ContextVar("request_id", default=None)
"""The id of the HTTP request being answered; stands in every line logged meanwhile."""

_PLAIN_ATTRIBUTES = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class AddRequestId(logging.Filter):
    """Puts the current request's id on each record that has none."""

    def filter(self, record: logging.LogRecord) -> bool:
        current = request_id.get()
        if current is not None and not hasattr(record, "request_id"):
            record.request_id = current
        return True


class TextFormatter(logging.Formatter):
    """Readable lines: the message, then the extras as key=value."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802, the base class names it
        extras = "".join(f" {key}={value}" for key, value in vars(record).items() if key not in _PLAIN_ATTRIBUTES)
        return super().formatMessage(record) + extras


def logging_config(settings: LogSettings) -> dict[str, Any]:
    """A configuration for `logging.config.dictConfig`, which gunicorn takes as well."""
    level = settings.level.upper()
    # The Kafka client logs each failed try; what we make of it is logged by us, once an outage.
    kafka_level = "INFO" if level == "DEBUG" else "CRITICAL"
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "filters": {"request_id": {"()": AddRequestId}},
        "formatters": {
            "json": {
                "()": "pythonjsonlogger.json.JsonFormatter",
                "fmt": ["levelname", "name", "message"],
                "rename_fields": {"levelname": "level", "name": "logger"},
                "timestamp": True,
            },
            "text": {"()": TextFormatter, "fmt": "%(levelname)-7s %(name)s: %(message)s"},
        },
        "handlers": {
            "stderr": {"class": "logging.StreamHandler", "formatter": settings.format, "filters": ["request_id"]}
        },
        "root": {"level": level, "handlers": ["stderr"]},
        "loggers": {
            "kafka": {"level": kafka_level},
            "pymongo": {"level": "WARNING"},
            # Its own debug lines are about itself.
            "gunicorn.error": {"level": "INFO" if level == "DEBUG" else level, "handlers": [], "propagate": True},
            "gunicorn.access": {"level": "CRITICAL", "handlers": [], "propagate": False},
        },
    }
