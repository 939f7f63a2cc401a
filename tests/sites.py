"""A web site for tests with a browser, with another origin than the API."""

import http.server
import threading
from urllib.parse import urlsplit

ELSEWHERE = "<title>Elsewhere</title>"
_TYPES = {"js": "text/javascript"}


class Site(http.server.ThreadingHTTPServer):
    """Serves `pages` by path, and `other` at all other paths."""

    daemon_threads = True

    def __init__(self) -> None:
        self.pages: dict[str, str] = {}
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://localhost:{self.server_port}"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def other(self, path: str) -> str:
        """The page at a path that is not in `pages`."""
        return ELSEWHERE

    def close(self) -> None:
        self.shutdown()
        self.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Site

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        body = (self.server.pages.get(path) or self.server.other(path)).encode()
        self.send_response(200)
        self.send_header("Content-Type", f"{_TYPES.get(path.rpartition('.')[2], 'text/html')}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002, its name there
        pass
