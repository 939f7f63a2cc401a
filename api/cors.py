"""CORS: which pages of other origins may send with fetch, and read the answers."""

from flask import Flask, Response, request

_HOURS_TO_REMEMBER = 2
_ALLOWED_HEADERS = "Authorization, Content-Encoding, Content-Type, X-API-Key, X-Request-ID"
_ALLOW_ORIGIN = "Access-Control-Allow-Origin"
_EXPOSE = ("Access-Control-Expose-Headers", "Retry-After, X-Request-ID")


def cors_headers(origins: frozenset[str], origin: str) -> list[tuple[str, str]]:
    """What an answer of the API says to a page of this origin, if there are `origins` whose pages may read it."""
    if "*" in origins:
        return [(_ALLOW_ORIGIN, "*"), _EXPOSE]
    if not origins:
        return []
    # What a cache keeps for one origin is not for another.
    vary = ("Vary", "Origin")
    return [vary, (_ALLOW_ORIGIN, origin), _EXPOSE] if origin.lower() in origins else [vary]


def allow_origins(app: Flask, origins: frozenset[str]) -> None:
    """Tell browsers on each answer of the API, errors included, whether pages of their origin may read it."""

    @app.after_request
    def tell(answer: Response) -> Response:
        if not request.path.startswith("/api/"):
            return answer
        headers = cors_headers(origins, request.headers.get("Origin", ""))
        answer.headers.extend(headers)
        if request.method == "OPTIONS" and _ALLOW_ORIGIN in dict(headers):
            answer.headers["Access-Control-Allow-Methods"] = "POST"
            answer.headers["Access-Control-Allow-Headers"] = _ALLOWED_HEADERS
            answer.headers["Access-Control-Max-Age"] = str(_HOURS_TO_REMEMBER * 3600)
            if answer.status_code == 404:
                # A browser that goes on gets a 404 which its page can read; else CORS would seem to be at fault.
                answer.status_code = 204
                answer.set_data(b"")
                del answer.headers["Content-Type"]
        return answer
