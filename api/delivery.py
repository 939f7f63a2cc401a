"""One worker's delivery: claims a journal, sends its leftover events and new ones, stops."""

import logging
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

from api.event_queue import EventQueue
from api.journal.folders import SetAside, claim_left_behind, claim_own, is_restored, open_journal, set_aside_files
from api.journal.journal import Journal, JournalState
from api.producer import Producer
from api.undeliverable import Undeliverable
from common.errors import JournalError
from common.kafka import RecordSender
from common.metrics import ApiMetrics
from common.retry import Backoff
from common.settings import ApiSettings, JournalSettings

logger = logging.getLogger(__name__)


class Delivery:
    """A gunicorn worker's queue, the journal behind it, and the producer."""

    def __init__(
        self, settings: ApiSettings, sender: RecordSender, dead_letters: RecordSender, metrics: ApiMetrics
    ) -> None:
        """Touches no file and starts no thread: `start` does that, after the fork."""
        self._journals = settings.journal
        self._metrics = metrics
        self.unopened: dict[str, str] = {}
        self.queue = EventQueue(settings.queue_capacity, settings.queue_max_bytes, metrics)
        folder = settings.journal.folder if settings.journal else None
        undeliverable = Undeliverable(dead_letters, settings.kafka.topic, folder, metrics)
        self.producer = Producer(
            self.queue, sender, undeliverable, metrics=metrics, backoff=Backoff(), on_death=_end_this_process
        )

    @property
    def can_take(self) -> bool:
        """Whether events can be kept and will be sent."""
        journal = self.queue.journal
        if journal is None:
            return self.queue.filled < 1 and self.producer.alive
        return journal.state is JournalState.ROOM and self.producer.alive

    @property
    def can_go_on(self) -> bool:
        """False if only a restart can help."""
        journal = self.queue.journal
        return self.producer.alive and (journal is None or journal.state is not JournalState.FATAL)

    def set_aside(self) -> list[SetAside]:
        """The damaged journals that any worker has set aside; updates the metric."""
        found = set_aside_files(self._journals.folder) if self._journals else []
        self._metrics.set_aside.set(sum(aside.events for aside in found))
        return found

    def start(self) -> None:
        """Blocks while it reads the journal. Raises JournalError if the journal is unusable."""
        if self._journals is None:
            self.producer.start()
            return
        # Kept while the worker lives, since it holds the lock.
        self._claim = claim_own(self._journals.folder)
        self.queue.keep_in(_open(self._claim.folder, self._journals, self._end_for_the_journal))
        if self.queue.unacknowledged:
            waiting = {"events": self.queue.unacknowledged}
            logger.warning("the journal holds earlier events; they are sent first", extra=waiting)
        self.producer.start(self._left_behind(self._journals))

    def stop(self, timeout: float) -> None:
        """Send the waiting events, for at most `timeout` seconds (blocks); the rest stays in the journal, on the disk.

        Call it when no request can come any more.
        """
        self.producer.stop(timeout)
        if self.queue.journal is not None and not self.producer.alive:
            self.queue.journal.settle()
        waiting = {"events": self.queue.unacknowledged, "seconds": timeout}
        if not self.queue.unacknowledged:
            logger.info("all events are in Kafka")
        elif self._journals is None:
            logger.error("events lost: Kafka did not accept them in time, and the journal is off", extra=waiting)
        else:
            logger.warning("events stay in the journal; the next start sends them", extra=waiting)

    def _left_behind(self, settings: JournalSettings) -> Iterator[Journal]:
        """The journals of dead workers; each is claimed until the caller requests the next."""
        for claim in claim_left_behind(settings.folder, self._not_opened):
            try:
                journal = _open(claim.folder, settings)
            except JournalError as error:
                # Our own events must not wait for another worker's folder.
                self._not_opened(claim.folder, error)
            else:
                if journal.unacknowledged:
                    yield journal
                if journal.state in {JournalState.FATAL, JournalState.FAILING}:
                    self._not_opened(claim.folder, JournalError("its disk returns errors"))
                journal.close()
                if not journal.events and is_restored(claim.folder):
                    claim.remove()
            claim.release()

    def _not_opened(self, folder: Path, error: JournalError) -> None:
        self.unopened[folder.name] = str(error)
        self._metrics.unopened.set(len(self.unopened))
        extra = {"folder": str(folder), "error": str(error)}
        logger.error("events that a dead worker left behind are not sent: fix this and restart the API", extra=extra)

    def _end_for_the_journal(self) -> None:
        # The next worker finds the unsent events in the journal and sends them.
        self.producer.give_up()
        _end_this_process()


def _open(folder: Path, settings: JournalSettings, on_fatal: Callable[[], None] = lambda: None) -> Journal:
    return open_journal(folder, max_bytes=settings.max_bytes, sync=settings.sync == "full", on_fatal=on_fatal)


def _end_this_process() -> None:
    # gunicorn starts another worker, which takes over the journal.
    os.kill(os.getpid(), signal.SIGTERM)
