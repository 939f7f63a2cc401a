"""Each request gets an id, is timed, counted and logged."""

import logging
import re
import time
import uuid

from flask import Flask, Response, g, request

from common.logs import request_id
from common.metrics import ApiMetrics

logger = logging.getLogger(__name__)

_SANE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def instrument(app: Flask, metrics: ApiMetrics) -> None:
    """Install the hooks."""

    @app.before_request
    def begin() -> None:
        sent = request.headers.get("X-Request-ID", "")
        request_id.set(sent if _SANE_ID.fullmatch(sent) else uuid.uuid4().hex)
        g.started = time.perf_counter()

    @app.after_request
    def finish(answer: Response) -> Response:
        seconds = time.perf_counter() - g.started
        # Labels are bounded whatever clients send: templates, not paths; unknown methods collapse.
        path = request.url_rule.rule if request.url_rule else "(unknown)"
        method = request.method if request.method in _METHODS else "(other)"
        metrics.requests.labels(method, path, answer.status_code).inc()
        metrics.request_duration.labels(method, path).observe(seconds)
        answer.headers["X-Request-ID"] = request_id.get() or ""
        logger.log(
            _level(answer.status_code),
            "request answered",
            extra={
                "method": method,
                "path": path,
                "status": answer.status_code,
                "milliseconds": round(seconds * 1000, 2),
            },
        )
        return answer

    @app.teardown_request
    def end(_: BaseException | None) -> None:
        request_id.set(None)


def _level(status: int) -> int:
    if status >= 500:
        return logging.WARNING
    return logging.INFO if status >= 400 else logging.DEBUG
