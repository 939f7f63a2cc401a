"""One worker's life: claim a journal, send what is left there, send what comes, stop."""

import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import lmdb

from api.event_queue import EventQueue
from api.journal import Journal, claim_left_behind, claim_own, open_journal
from api.producer import Producer
from api.refused import RefusedEvents
from common.errors import SettingsError
from common.kafka import RecordSender
from common.metrics import ApiMetrics
from common.retry import Backoff
from common.settings import ApiSettings, JournalSettings

logger = logging.getLogger(__name__)


class Worker:
    """What a gunicorn worker has beside its Flask app: the queue, the journal behind it, and the producer."""

    def __init__(
        self, settings: ApiSettings, sender: RecordSender, dead_letters: RecordSender, metrics: ApiMetrics
    ) -> None:
        """Touches no file and starts nothing: that is for `start`, after the fork."""
        self._journals = settings.journal
        self.queue = EventQueue(settings.queue_capacity, settings.queue_max_bytes, metrics)
        folder = settings.journal.folder if settings.journal else None
        refused = RefusedEvents(dead_letters, settings.kafka.topic, folder, metrics)
        self.producer = Producer(
            self.queue, sender, refused, metrics=metrics, backoff=Backoff(), on_death=_end_this_process
        )

    @property
    def can_take(self) -> bool:
        """Whether events can be kept and will be sent."""
        journal = self.queue.journal
        room = self.queue.filled < 1 if journal is None else not journal.nearly_full
        return room and self.producer.alive

    def start(self) -> None:
        """Blocks while it looks through the journal. Raises SettingsError if that cannot be used."""
        if self._journals is None:
            self.producer.start()
            return
        try:
            # Kept for as long as the worker lives: the lock goes with it.
            self._claim = claim_own(self._journals.folder)
            self.queue.keep_in(_open(self._claim.folder, self._journals))
        except (OSError, lmdb.Error) as error:
            folder = str(self._journals.folder)
            raise SettingsError("API_JOURNAL_DIR", folder, f"a folder that can be written to ({error})") from error
        if self.queue.unacknowledged:
            waiting = {"events": self.queue.unacknowledged}
            logger.warning("the journal holds events from before; they are sent first", extra=waiting)
        self.producer.start(_left_behind(self._journals))

    def stop(self, timeout: float) -> None:
        """Send what waits, for at most `timeout` seconds (blocks); what cannot be sent stays in the journal."""
        self.producer.stop(timeout)
        waiting = {"events": self.queue.unacknowledged, "seconds": timeout}
        if not self.queue.unacknowledged:
            logger.info("all events are in Kafka")
        elif self._journals is None:
            logger.error("events lost: Kafka did not take them in time, and the journal is off", extra=waiting)
        else:
            logger.warning("events stay in the journal; the next start sends them", extra=waiting)


def _open(folder: Path, settings: JournalSettings) -> Journal:
    return open_journal(folder, max_bytes=settings.max_bytes, sync=settings.sync == "full")


def _left_behind(settings: JournalSettings) -> Iterator[Journal]:
    """The journals of workers that are gone, each ours until the next is asked for."""
    for claim in claim_left_behind(settings.folder):
        try:
            journal = _open(claim.folder, settings)
        except (OSError, lmdb.Error):
            # Our own events must not wait for somebody else's folder.
            logger.exception("what a dead worker left behind cannot be read", extra={"folder": str(claim.folder)})
        else:
            if journal.events:
                yield journal
            journal.close()
        claim.release()


def _end_this_process() -> None:
    # gunicorn starts another worker, which finds the journal.
    os.kill(os.getpid(), signal.SIGTERM)
