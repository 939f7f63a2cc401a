"""Proxies of the API that fail once."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple, Self

import requests


class Fault(NamedTuple):
    """The failure of the first request: an answer with `status`, or a lost answer if that is None."""

    status: int | None
    retry_after: int | None = None


class Door:
    """A proxy of the API that fails for the first request, and passes on all later ones."""

    def __init__(self, api: str, fault: Fault) -> None:
        self.requests = 0
        lock = threading.Lock()
        door = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                with lock:
                    door.requests += 1
                    first = door.requests == 1
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if first and fault.status is not None:
                    said = {"status": "error", "success": False, "code": "scripted", "message": "A scripted answer."}
                    pause = {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
                    self._answer(fault.status, json.dumps(said).encode(), pause)
                    return
                answer = requests.post(f"{api}{self.path}", data=body, headers=dict(self.headers), timeout=30)
                if first:
                    # Close the connection without an answer.
                    self.close_connection = True
                    return
                self._answer(answer.status_code, answer.content, {})

            def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
                self.send_response(status)
                for name, value in {"Content-Type": "application/json", **headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *arguments: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self._server.shutdown()
        self._server.server_close()
