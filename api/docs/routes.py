"""/openapi.json, and /docs, a page that shows it with Swagger UI, without requests to other hosts."""

from importlib.resources import files
from pathlib import Path

from flask import Blueprint, Response, request, send_from_directory

from api.docs.openapi import openapi_document

_PAGE = Path(__file__).parent / "page"
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def docs_routes(*, needs_key: bool) -> Blueprint:
    """The two routes and the page's files. Clients may cache them, but must revalidate each time."""
    routes = Blueprint("docs", __name__)
    document = openapi_document(needs_key=needs_key)
    swagger_ui = str(files("flask_swagger_ui") / "dist")

    @routes.get("/openapi.json")
    def openapi() -> Response:
        answer = Response(document, content_type="application/json")
        answer.cache_control.no_cache = True
        answer.add_etag()
        answer.make_conditional(request)
        return answer

    @routes.get("/docs")
    def docs() -> Response:
        answer = send_from_directory(_PAGE, "index.html")
        answer.headers["Content-Security-Policy"] = _POLICY
        return answer

    @routes.get("/docs/<path:name>")
    def page_file(name: str) -> Response:
        return send_from_directory(_PAGE if name.startswith("page.") else swagger_ui, name)

    return routes
