"""Checks that MONGO_TTL_DAYS leaves the export enough time."""

from contextlib import closing

from common.errors import ExportError
from common.kafka import connect_admin, topic_config
from common.settings import KafkaSettings

_DAY = 86_400
_SLACK = _DAY
"""The accepted delay of the export, in seconds."""


def refuse_short_ttl(settings: KafkaSettings, ttl: int | None) -> None:
    """Raise ExportError if events can be deleted before they are exported, or stored and exported once more after.

    `ttl` is in seconds. An event may have waited in Kafka for as long as that keeps it; and as long, the same event may
    come again. Blocks some seconds; raises KafkaError.
    """
    if ttl is None:
        return
    with closing(connect_admin(settings)) as admin:
        retention = int(topic_config(admin, settings.topic).values["retention.ms"]) / 1000
    if retention < 0:
        raise ExportError(
            f"{settings.topic} keeps records forever (retention.ms=-1), so an event can be stored again after "
            "MONGO_TTL_DAYS has deleted it: set the topic's retention, or unset MONGO_TTL_DAYS."
        )
    if ttl < retention + _SLACK:
        least = -(-int(retention + _SLACK) // _DAY)
        raise ExportError(
            f"MongoDB deletes events after {ttl / _DAY:g} days, and {settings.topic} keeps records for "
            f"{retention / _DAY:g}: events can be deleted before they are exported. Set MONGO_TTL_DAYS to {least} or "
            "more."
        )
