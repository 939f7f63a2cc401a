"""The lower limit of HTTP: an app that reads the body and answers 202, in our worker with our gunicorn settings."""

from collections.abc import Iterable
from typing import Any

_ANSWER = b'{"status":"accepted","event_id":"evt_00000000-0000-4000-8000-000000000000"}\n'
_HEADERS = [("Content-Type", "application/json"), ("Content-Length", str(len(_ANSWER)))]


class _NoQueue:
    """A queue that keeps no events."""

    grouped_by = None
    uncommitted = 0


class _Nothing:
    """Replaces the extensions that our gunicorn settings start and stop in a worker."""

    queue = _NoQueue()

    def start(self) -> None:
        pass

    def stop(self, timeout: float) -> None:
        pass


class _App:
    extensions = {"delivery": _Nothing(), "refusals": _Nothing()}  # noqa: RUF012, as Flask has it

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        environ["wsgi.input"].read()
        start_response("202 ACCEPTED", _HEADERS)
        return [_ANSWER]


app = _App()
