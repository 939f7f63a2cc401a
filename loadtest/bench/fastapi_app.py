"""For comparison: a collector that a Python team writes in an afternoon. An answer means that Kafka has the event."""

import asyncio
import os
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, Literal

from aiokafka import AIOKafkaProducer
from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field

TOPIC = os.environ["KAFKA_TOPIC"]


class Event(BaseModel):  # type: ignore[misc]  # the environment of mypy does not have its types
    model_config = ConfigDict(extra="forbid")
    customer_id: str = Field(min_length=1, max_length=256)
    event_type: Literal["page_view", "click", "purchase", "add_to_cart", "search", "custom"]
    event_id: str = Field(default_factory=lambda: f"evt_{uuid.uuid4()}", min_length=1, max_length=128)
    timestamp: datetime = Field(default_factory=lambda: datetime.now(UTC))
    properties: dict[str, str | int | float | bool] = Field(default_factory=dict, max_length=50)
    context: dict[str, str] = Field(default_factory=dict)


class Batch(BaseModel):  # type: ignore[misc]  # as above
    events: list[Event] = Field(min_length=1, max_length=100)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    app.state.producer = AIOKafkaProducer(bootstrap_servers=os.environ["KAFKA_BROKERS"], acks="all", linger_ms=1)
    await app.state.producer.start()
    yield
    await app.state.producer.stop()


app = FastAPI(lifespan=lifespan)


async def send(event: Event) -> Any:
    """Pass it to the producer; returns a future that is done once Kafka has it."""
    return await app.state.producer.send(TOPIC, event.model_dump_json().encode(), event.customer_id.encode())


@app.post("/api/v1/track", status_code=202)  # type: ignore[untyped-decorator]  # as above
async def track(event: Event) -> dict[str, Any]:
    await (await send(event))
    return {"status": "accepted", "event_id": event.event_id}


@app.post("/api/v1/track/batch", status_code=202)  # type: ignore[untyped-decorator]  # as above
async def track_batch(batch: Batch) -> dict[str, Any]:
    await asyncio.gather(*[await send(event) for event in batch.events])
    return {"status": "accepted", "event_ids": [event.event_id for event in batch.events]}


@app.get("/health/ready")  # type: ignore[untyped-decorator]  # as above
async def ready() -> dict[str, str]:
    return {"status": "ok"}
