"""The columns of the files and of BigQuery's table, derived from the event's schemas; converts documents to rows.

`python -m ops.export.columns` writes terraform/events.schema.json.
"""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pyarrow as pa

from common.errors import ExportError
from common.events import StoredEventSchema, Text, Timestamp
from ops.export.state import Document

BIGQUERY_SCHEMA = Path(__file__).parents[2] / "terraform" / "events.schema.json"

DAYS_BEFORE, DAYS_AFTER = 3652, 2
"""How far an event's day may be from its receipt: a load job may touch 4,000 days, a table may have 10,000."""

_TIME = pa.timestamp("us", tz="UTC")
_KAFKA = pa.struct([pa.field("partition", pa.int32(), nullable=False), pa.field("offset", pa.int64(), nullable=False)])
_BIGQUERY_TYPES = {pa.string(): "STRING", _TIME: "TIMESTAMP", pa.int32(): "INTEGER", pa.int64(): "INTEGER"}
_AS_SENT = "As JSON text: JSON_VALUE and PARSE_JSON read it."


class _Column(NamedTuple):
    name: str
    type: pa.DataType
    required: bool = False
    description: str = ""
    is_json: bool = False


def _columns() -> list[_Column]:
    columns = []
    for name, field in StoredEventSchema().fields.items():
        told = field.metadata.get("description", "")
        match field:
            case Text():
                columns.append(_Column(name, pa.string(), field.required, told))
            case Timestamp():
                columns.append(_Column(name, _TIME, field.required, told))
            case _:
                columns.append(_Column(name, pa.string(), field.required, f"{told} {_AS_SENT}".strip(), is_json=True))
    return [
        *columns,
        _Column("processed_at", _TIME, required=True, description="When the consumer stored it in MongoDB."),
        _Column("kafka", _KAFKA, description="Where its first record was in Kafka; missing in old events."),
        _Column(
            "other_fields",
            pa.string(),
            description=f"Fields of a newer API that this exporter has no columns for. {_AS_SENT}",
            is_json=True,
        ),
    ]


_COLUMNS = _columns()
_KNOWN = frozenset(column.name for column in _COLUMNS) - {"other_fields"} | {"_id"}
SCHEMA = pa.schema([pa.field(column.name, column.type, nullable=not column.required) for column in _COLUMNS])
# MongoDB's driver has a class of its own for integers of 64 bits.
_to_json = msgspec.json.Encoder(enc_hook=int).encode


def received_day(document: Document) -> str:
    """The day (UTC) on which the API received the event, as ISO 8601 has it. Raises ExportError."""
    received_at = document.get("received_at")
    if not isinstance(received_at, datetime):
        raise ExportError(f"Document {document['_id']} has no received_at, so it is not an event: delete or fix it.")
    return received_at.date().isoformat()


def as_rows(documents: Sequence[Document]) -> pa.RecordBatch:
    """The documents as rows of SCHEMA. Raises ExportError if a document lacks a field that all events have."""
    rows = [_row(document) for document in documents]
    try:
        return pa.RecordBatch.from_arrays([_array(column, rows) for column in _COLUMNS], schema=SCHEMA)
    except (pa.ArrowInvalid, pa.ArrowTypeError, ValueError, OverflowError) as error:
        if len(documents) == 1:
            raise ExportError(f"Document {documents[0]['_id']} is not an event ({error}): delete or fix it.") from None
        middle = len(documents) // 2
        as_rows(documents[:middle])
        as_rows(documents[middle:])
        raise


def _row(document: Document) -> Document:
    row = document
    if not document.keys() <= _KNOWN:
        row = {**document, "other_fields": {name: row[name] for name in document if name not in _KNOWN}}
    timestamp = row.get("timestamp")
    if isinstance(timestamp, datetime):
        days = timestamp.toordinal() - row["received_at"].toordinal()
        if not -DAYS_BEFORE <= days <= DAYS_AFTER:
            row = {**row, "timestamp": row["received_at"], "original_timestamp": timestamp}
    return row


def _array(column: _Column, rows: Sequence[Document]) -> pa.Array:
    name = column.name
    values = [row.get(name) for row in rows]
    if column.is_json:
        values = [None if value is None else _to_json(value) for value in values]
    if column.required and None in values:
        raise ValueError(f"without {name}")
    return pa.array(values, column.type)


def own_timestamp(row: Document) -> tuple[datetime, datetime | None]:
    """The `timestamp` and `original_timestamp` of the event in a row."""
    timestamp, original = row["timestamp"], row.get("original_timestamp")
    if original is not None and timestamp == row["received_at"]:
        days = original.toordinal() - timestamp.toordinal()
        if not -DAYS_BEFORE <= days <= DAYS_AFTER:
            return original, None
    return timestamp, original


def bigquery_schema() -> list[dict[str, Any]]:
    """The columns as BigQuery's API and Terraform describe a table's."""
    return [
        _described(column.name, column.type, required=column.required, description=column.description)
        for column in _COLUMNS
    ]


def _described(name: str, type_: pa.DataType, *, required: bool, description: str = "") -> dict[str, Any]:
    said = {"name": name, "mode": "REQUIRED" if required else "NULLABLE"}
    said |= {"description": description} if description else {}
    if pa.types.is_struct(type_):
        fields = [_described(part.name, part.type, required=not part.nullable) for part in type_.fields]
        return {**said, "type": "RECORD", "fields": fields}
    return {**said, "type": _BIGQUERY_TYPES[type_]}


def bigquery_schema_text() -> str:
    """The text of terraform/events.schema.json."""
    rows = ",\n".join(f"  {json.dumps(column)}" for column in bigquery_schema())
    return f"[\n{rows}\n]\n"


def as_event(row: Document) -> dict[str, Any]:
    """The event in a row, as the API sends it to Kafka, except that its times are datetimes."""
    timestamp, original = own_timestamp(row)
    event = {**row, "timestamp": timestamp, "original_timestamp": original}
    for column in _COLUMNS:
        if column.is_json and event.get(column.name) is not None:
            event[column.name] = msgspec.json.decode(event[column.name])
    event |= event.pop("other_fields", None) or {}
    for name in ("processed_at", "kafka"):
        event.pop(name, None)
    return {name: _in_utc(value) for name, value in event.items() if value is not None}


def _in_utc(value: Any) -> Any:
    return value.astimezone(UTC) if isinstance(value, datetime) else value


if __name__ == "__main__":
    BIGQUERY_SCHEMA.write_text(bigquery_schema_text())
