"""Moves events that Kafka will never accept to the dead letter topic, or to a file, so that they block no others."""

import logging
import os
from datetime import UTC, datetime
from pathlib import Path

from api.intake import AcceptedEvent
from api.journal.power import sync_folder
from common.dead_letter_headers import dead_letter_headers
from common.kafka import Record, RecordSender, never_takes
from common.metrics import ApiMetrics

logger = logging.getLogger(__name__)

FILE_NAME = "refused.jsonl"


class Undeliverable:
    """Handles events that Kafka will never accept. Validation makes them nearly impossible."""

    def __init__(self, dead_letters: RecordSender, topic: str, folder: Path | None, metrics: ApiMetrics) -> None:
        """`topic` is the one that refused them; `folder` is for the file."""
        self._dead_letters = dead_letters
        self._topic = topic
        self._folder = folder
        self._metrics = metrics

    def keep(self, event: AcceptedEvent, error: Exception) -> bool:
        """Keep an event; False if the caller must try again. Blocks as sending does."""
        headers = dead_letter_headers(error, datetime.now(UTC), self._topic)
        answer = self._dead_letters.send([Record(event.key, event.value, headers)])[0]
        if answer is None:
            kept_in = "dlq"
        elif not never_takes(answer):
            return False
        elif self._folder is None:
            kept_in = "nothing"
        else:
            kept_in = "file"
            try:
                with (self._folder / FILE_NAME).open("ab") as file:
                    file.write(event.value + b"\n")
                    file.flush()
                    # The journal deletes the event next.
                    os.fsync(file.fileno())
                sync_folder(self._folder)
            except OSError:
                logger.exception("an event that Kafka will never accept cannot be kept yet")
                return False
        self._metrics.refused.labels(kept_in).inc()
        logger.error(
            "Kafka will never accept an event",
            extra={"event_id": event.event_id, "error": repr(error), "kept_in": kept_in},
        )
        return True
