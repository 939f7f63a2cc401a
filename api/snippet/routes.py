"""/pulse.js: the browser snippet (docs/snippet.md), served from memory."""

import gzip
from pathlib import Path

from flask import Blueprint, Response, request

_SERVED = Path(__file__).parent / "pulse.min.js"
_SECONDS_TO_KEEP = 3600


def snippet_routes() -> Blueprint:
    """The route. Reads the file once, now; browsers cache it for an hour and then revalidate it."""
    routes = Blueprint("snippet", __name__)
    plain = _SERVED.read_bytes()
    zipped = gzip.compress(plain, mtime=0)

    @routes.get("/pulse.js")
    def pulse_js() -> Response:
        may_zip = request.accept_encodings.quality("gzip") > 0
        answer = Response(zipped if may_zip else plain, content_type="text/javascript; charset=utf-8")
        if may_zip:
            answer.content_encoding = "gzip"
        answer.vary.add("Accept-Encoding")
        answer.cache_control.public = True
        answer.cache_control.max_age = _SECONDS_TO_KEEP
        # Isolated pages (COEP) can load it too.
        answer.headers["Cross-Origin-Resource-Policy"] = "cross-origin"
        answer.headers["X-Content-Type-Options"] = "nosniff"
        answer.add_etag()
        answer.make_conditional(request)
        return answer

    return routes
