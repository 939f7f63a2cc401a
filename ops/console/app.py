"""The app factory: assembles the console's parts, and answers the page's requests."""

import json
import logging
from pathlib import Path
from typing import Any

from flask import Blueprint, Flask, Response, jsonify, render_template, request
from werkzeug.exceptions import BadRequest, HTTPException, NotFound, ServiceUnavailable

from common.build_info import VERSION
from common.errors import PulseError
from common.kafka import KafkaError
from common.settings import ConsoleSettings
from ops.console import security
from ops.console.console import Console
from ops.console.letters import ReplayRunsError, WrongFilterError, choice_of
from ops.console.search import LONGEST_QUERY
from ops.grafana.runbooks import anchor, read_runbooks

_FOLDER = Path(__file__).parent / "page"
_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_LONGEST_BODY = 64 * 1024
_SEND_SECONDS = 15
_LIST = ("reason", "key", "event_type")

logger = logging.getLogger(__name__)


def create_app(settings: ConsoleSettings) -> Flask:
    """The WSGI app. Start its `Console`, in `app.extensions["console"]`."""
    app = Flask(__name__, static_folder=None, template_folder="page")
    app.json.sort_keys = False  # type: ignore[attr-defined]  # of Flask's default provider
    app.config["MAX_CONTENT_LENGTH"] = _LONGEST_BODY
    console = app.extensions["console"] = Console(settings)
    token = security.guard(app, settings)
    _answer_errors(app)
    app.register_blueprint(_pages(settings, token))
    app.register_blueprint(_answers(settings, console))
    app.register_blueprint(_letters(settings, console))
    return app


def _answer_errors(app: Flask) -> None:
    """Answer every error in one JSON form."""

    @app.errorhandler(HTTPException)
    def http(error: HTTPException) -> Response:
        answer = _error(error.code or 500, error.description or error.name)
        if error.code == 401:
            answer.headers.extend((name, value) for name, value in error.get_headers() if name == "WWW-Authenticate")
        return answer

    @app.errorhandler(PulseError)
    @app.errorhandler(KafkaError)
    @app.errorhandler(OSError)
    def away(error: Exception) -> Response:
        text = str(error) if isinstance(error, PulseError) else f"Kafka does not answer: {error!r}"
        status = 400 if isinstance(error, WrongFilterError) else 409 if isinstance(error, ReplayRunsError) else 503
        return _error(status, text)

    @app.errorhandler(Exception)
    def unexpected(error: Exception) -> Response:
        logger.error("unexpected error", exc_info=error)
        return _error(500, "Something went wrong in the console; its log says what.")


def _pages(settings: ConsoleSettings, token: str) -> Blueprint:
    routes = Blueprint("pages", __name__)
    files = {file.name: file.read_bytes() for file in _FOLDER.iterdir() if file.suffix in _TYPES}
    runbooks = {anchor(runbook.title): runbook for runbook in read_runbooks()}

    @routes.get("/")
    def page() -> str:
        return render_template("index.html", token=token, version=VERSION, api_url=settings.public_api_url)

    @routes.get("/page/<name>")
    def file(name: str) -> Response:
        if name not in files:
            raise NotFound("There is no such file.")
        return Response(files[name], mimetype=_TYPES[Path(name).suffix])

    @routes.get("/runbook/<name>")
    def runbook(name: str) -> str:
        if name not in runbooks:
            raise NotFound("There is no such runbook.")
        return render_template("runbook.html", runbook=runbooks[name])

    @routes.get("/demo")
    def demo() -> Response:
        answer = Response(
            render_template("demo.html", api_url=settings.public_api_url, key=settings.demo_key or "demo"),
            mimetype="text/html",
        )
        answer.headers["Content-Security-Policy"] = security.policy_with(settings.public_api_url)
        return answer

    @routes.get(security.ALIVE)
    def alive() -> dict[str, str]:
        return {"status": "ok"}

    return routes


def _answers(settings: ConsoleSettings, console: Console) -> Blueprint:
    routes = Blueprint("answers", __name__, url_prefix="/api")

    @routes.get("/flow")
    def flow() -> dict[str, Any]:
        return console.flow()

    @routes.get("/live")
    def live() -> Response:
        return _stream(console)

    @routes.get("/events/<int:partition>-<int:offset>")
    def event(partition: int, offset: int) -> dict[str, Any]:
        found = console.live.get(partition, offset)
        if found is None:
            raise NotFound("This event is no longer in the console's memory: look for its id under Where is my event?")
        text = found.value.decode(errors="backslashreplace") if settings.show_bodies else None
        return {**found.row, "value": text, "hidden": not settings.show_bodies}

    @routes.get("/refused")
    def refused() -> dict[str, Any]:
        kept = settings.kafka.refused_topic is not None
        return {"kept": kept, "problem": console.problem_of_refused(), **console.refused.answer()}

    @routes.get("/find")
    def find() -> dict[str, Any]:
        wanted = request.args.get("q", "").strip()
        if not wanted:
            raise BadRequest("Give an event_id or a customer_id: /api/find?q=…")
        if len(wanted) > LONGEST_QUERY:
            raise BadRequest(f"No event_id and no customer_id has more than {LONGEST_QUERY} characters.")
        return console.search.find(wanted)

    return routes


def _stream(console: Console) -> Response:
    stream = console.live.view(request.headers.get("Last-Event-ID"))
    if stream is None:
        raise ServiceUnavailable("Eight look already: close another page of the console.")
    if sock := request.environ.get("gunicorn.socket"):
        # A viewer that does not read must not occupy its slot for long.
        sock.settimeout(_SEND_SECONDS)
    return Response(stream, mimetype="text/event-stream", headers={"X-Accel-Buffering": "no"})


def _letters(settings: ConsoleSettings, console: Console) -> Blueprint:
    routes = Blueprint("letters", __name__, url_prefix="/api/letters")

    @routes.get("")
    def letters() -> dict[str, Any]:
        sent: dict[str, Any] = {name: request.args.getlist(name) for name in _LIST}
        sent |= {name: request.args.get(name) for name in ("since", "until")}
        with_replayed = request.args.get("replayed") == "true"
        return console.letters.answer(choice_of(sent).wanted, with_replayed=with_replayed)

    @routes.get("/<name>")
    def letter(name: str) -> dict[str, Any]:
        found = console.letters.whole(name, show_bodies=settings.show_bodies)
        if found is None:
            raise NotFound("There is no such letter.")
        return found

    @routes.get("/replay")
    def progress() -> dict[str, Any]:
        return console.letters.progress()

    @routes.post("/replay")
    def replay() -> tuple[Response, int]:
        sent = request.get_json()
        if not isinstance(sent, dict):
            raise BadRequest("The body must be a JSON object with the filters.")
        choice = choice_of(sent)
        if sent.get("dry_run") is True:
            return jsonify(console.letters.plan(choice).answer()), 200
        if sent.get("dry_run", False) is not False:
            raise BadRequest("dry_run must be true or false.")
        console.letters.replay(choice, security.who_asks())
        return jsonify(console.letters.progress()), 202

    @routes.delete("/replay")
    def stop() -> dict[str, Any]:
        return console.letters.stop()

    return routes


def _error(status: int, message: str) -> Response:
    return Response(json.dumps({"status": "error", "message": message}), status, mimetype="application/json")
