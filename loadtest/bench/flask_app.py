"""For comparison: plain Flask, gunicorn's threads, and the Kafka client of Pulse. An answer means that Kafka has the
event.
"""

import json
import os
import uuid
from datetime import UTC, datetime
from typing import Any

from flask import Flask, Response, jsonify, request
from kafka import KafkaProducer
from marshmallow import ValidationError

from common.events import BatchSchema, EventSchema

TOPIC = os.environ["KAFKA_TOPIC"]
_EVENT, _BATCH = EventSchema(), BatchSchema()

app = Flask(__name__, static_folder=None)
producer = KafkaProducer(bootstrap_servers=os.environ["KAFKA_BROKERS"].split(","), acks="all", linger_ms=1)


def send(event: dict[str, Any]) -> Any:
    """Pass it to the producer; returns a future that is done once Kafka has it."""
    event.setdefault("event_id", f"evt_{uuid.uuid4()}")
    event.setdefault("timestamp", datetime.now(UTC))
    return producer.send(TOPIC, json.dumps(event, default=str).encode(), event["customer_id"].encode())


@app.post("/api/v1/track")
def track() -> tuple[Response, int]:
    event: dict[str, Any] = _EVENT.load(request.get_json())
    send(event).get(30)
    return jsonify(status="accepted", event_id=event["event_id"]), 202


@app.post("/api/v1/track/batch")
def track_batch() -> tuple[Response, int]:
    events = _BATCH.load(request.get_json())["events"]
    for sent in [send(event) for event in events]:
        sent.get(30)
    return jsonify(status="accepted", event_ids=[event["event_id"] for event in events]), 202


@app.get("/health/ready")
def ready() -> Response:
    return jsonify(status="ok")


@app.errorhandler(ValidationError)
def invalid(error: ValidationError) -> tuple[Response, int]:
    return jsonify(errors=error.messages), 400
