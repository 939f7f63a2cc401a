"""The console's queries to MongoDB: by event id, and by customer."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from pymongo import MongoClient
from pymongo.errors import ConnectionFailure, PyMongoError

from common.mongo_errors import first_line
from common.settings import MongoSettings
from ops.console.live import Stored

_PART = {"event_id": 1, "received_at": 1, "processed_at": 1}
_MOST_OF_A_CUSTOMER = 20
_TIMEOUT_MS = 3000


class Store:
    """Reads the events collection. Thread-safe. Each call blocks for some seconds; raises PyMongoError."""

    def __init__(self, settings: MongoSettings) -> None:
        """Does not connect yet."""
        client: MongoClient[dict[str, Any]] = MongoClient(
            settings.uri,
            connect=False,
            serverSelectionTimeoutMS=_TIMEOUT_MS,
            connectTimeoutMS=_TIMEOUT_MS,
            socketTimeoutMS=2 * _TIMEOUT_MS,
            tz_aware=True,
            datetime_conversion="DATETIME_AUTO",
            appname="pulse-console",
        )
        self._events = client[settings.database][settings.collection]

    def ping(self) -> None:
        """Return if MongoDB answers."""
        self._events.database.command("ping")

    def stored(self, event_ids: Sequence[str]) -> dict[str, Stored]:
        """The ids that are stored."""
        found = self._events.find({"event_id": {"$in": list(event_ids)}}, {**_PART, "_id": 0})
        return {
            document["event_id"]: Stored(_moment(document.get("received_at")), _moment(document.get("processed_at")))
            for document in found
        }

    def find(self, wanted: str) -> list[dict[str, Any]]:
        """The event with this id, and the newest events of the customer with this id, without duplicates."""
        by_id = list(self._events.find({"event_id": wanted}).limit(1))
        newest = self._events.find({"customer_id": wanted}).sort("timestamp", -1).limit(_MOST_OF_A_CUSTOMER)
        return list({document["_id"]: document for document in (*by_id, *newest)}.values())


def explained(error: PyMongoError) -> str:
    """The failure as a sentence. Only MongoDB's own answers are quoted: the driver's texts of an outage vary."""
    if error.timeout or isinstance(error, ConnectionFailure):
        return "MongoDB does not answer."
    return f"MongoDB refuses: {first_line(error)}."


def _moment(value: Any) -> datetime | None:
    return value.astimezone(UTC) if isinstance(value, datetime) else None
