"""The app factory: assembles the API's parts."""

import os
import struct
from pathlib import Path

from flask import Flask, Response, request
from prometheus_client import CollectorRegistry
from prometheus_flask_exporter import PrometheusMetrics
from prometheus_flask_exporter.multiprocess import GunicornPrometheusMetrics

from api.auth import Cors, WriteKeys, allow_origins, require_key
from api.delivery import Delivery
from api.docs.routes import docs_routes
from api.fast_path import fast_path
from api.faults import Faults
from api.health import health_routes
from api.instrumentation import instrument
from api.protocols.routes import sdk_routes
from api.refusals import Refusals
from api.responses import answer_errors
from api.routes import track_routes
from api.server.metrics_files import VARIABLE, drop_broken
from api.snippet.routes import snippet_routes
from common.kafka import KafkaSender, RecordSender
from common.metrics import ApiMetrics
from common.settings import ApiSettings


class _Api(Flask):
    """Flask, except that it answers OPTIONS with 204 instead of an empty page."""

    def make_default_options_response(self) -> Response:
        answer = super().make_default_options_response()
        answer.status_code = 204
        del answer.headers["Content-Type"]
        return answer


def create_app(
    settings: ApiSettings,
    sender: RecordSender | None = None,
    dead_letters: RecordSender | None = None,
    refused: RecordSender | None = None,
) -> Flask:
    """The WSGI app. Start its `Delivery` and `Refusals`, in `app.extensions`, after any fork.

    `sender`, `dead_letters` and `refused` replace Kafka in tests.
    """
    app = _Api(__name__, static_folder=None)
    app.url_map.merge_slashes = False
    app.json.sort_keys = False  # type: ignore[attr-defined]  # of Flask's default provider

    registry = CollectorRegistry()
    metrics = app.extensions["metrics"] = ApiMetrics(registry)
    delivery = app.extensions["delivery"] = Delivery(
        settings,
        sender or KafkaSender(settings.kafka, settings.kafka.topic),
        dead_letters or KafkaSender(settings.kafka, settings.kafka.dlq_topic),
        metrics,
    )

    instrument(app, metrics)
    faults = Faults(metrics)
    needs_key = bool(settings.access.keys or settings.access.keys_file)
    keys = WriteKeys(settings.access) if needs_key else None
    if refused is None and settings.kafka.refused_topic:
        refused = KafkaSender(settings.kafka, settings.kafka.refused_topic)
    refusals = Refusals(refused, metrics, keys, with_bodies=settings.refused_bodies)
    app.extensions["refusals"] = refusals
    answer_errors(app, metrics, faults, refusals)
    track = track_routes(delivery.queue, faults, refusals)
    if keys:
        require_key(track, keys, metrics)
    cors = app.extensions["cors"] = Cors(settings.access.origins, settings.access.sdk_origins)
    allow_origins(app, cors)
    app.extensions["fast_path"] = fast_path(delivery.queue, metrics, keys, cors)
    app.register_blueprint(track)
    app.register_blueprint(sdk_routes(delivery.queue, faults, refusals, keys, metrics))
    app.register_blueprint(health_routes(settings.kafka, delivery))
    app.register_blueprint(docs_routes(needs_key=needs_key))
    app.register_blueprint(snippet_routes())
    if VARIABLE in os.environ:
        # With several workers, a scrape of any of them sums the files of all.
        exporter = GunicornPrometheusMetrics(app, export_defaults=False)
    else:
        exporter = PrometheusMetrics(app, path=None, registry=registry, export_defaults=False)

    # The exporter's own route fails on a query.
    @app.get("/metrics")
    def exposed() -> Response:
        delivery.set_aside()
        accept = request.headers.get("Accept")
        try:
            text, content_type = exporter.generate_metrics(accept)
        except (struct.error, ValueError, RuntimeError):
            drop_broken(Path(os.environ[VARIABLE]))
            text, content_type = exporter.generate_metrics(accept)
        return Response(text, content_type=content_type)

    return app
