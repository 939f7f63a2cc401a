"""Answers every request with 200."""

import os
from wsgiref.simple_server import make_server
from wsgiref.types import StartResponse, WSGIEnvironment


def app(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
    start_response("200 OK", [])
    return []


make_server("", int(os.environ["PORT"]), app).serve_forever()
