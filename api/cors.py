"""CORS: which pages of other origins may send with fetch, and read the answers."""

from flask import Flask, Response, request

_HOURS_TO_REMEMBER = 2
_ALLOWED_HEADERS = "Authorization, Content-Encoding, Content-Type, X-API-Key, X-Request-ID"
_EXPOSED_HEADERS = "Retry-After, X-Request-ID"


def allow_origins(app: Flask, origins: frozenset[str]) -> None:
    """Tell browsers on each answer of the API, errors included, whether pages of their origin may read it."""

    @app.after_request
    def tell(answer: Response) -> Response:
        if not request.path.startswith("/api/"):
            return answer
        if "*" in origins:
            answer.headers["Access-Control-Allow-Origin"] = "*"
        else:
            # What a cache keeps for one origin is not for another.
            answer.vary.add("Origin")
            origin = request.headers.get("Origin", "")
            if origin.lower() not in origins:
                return answer
            answer.headers["Access-Control-Allow-Origin"] = origin
        answer.headers["Access-Control-Expose-Headers"] = _EXPOSED_HEADERS
        if request.method == "OPTIONS":
            answer.headers["Access-Control-Allow-Methods"] = "POST"
            answer.headers["Access-Control-Allow-Headers"] = _ALLOWED_HEADERS
            answer.headers["Access-Control-Max-Age"] = str(_HOURS_TO_REMEMBER * 3600)
            if answer.status_code == 404:
                # A browser that goes on gets a 404 which its page can read; else CORS would seem to be at fault.
                answer.status_code = 204
                answer.set_data(b"")
                del answer.headers["Content-Type"]
        return answer
