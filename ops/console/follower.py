"""A thread that follows a topic while the console runs, across outages of Kafka."""

import logging
import time
from collections.abc import Callable

from common.errors import PulseError
from common.kafka import KafkaError, KafkaTail, ReceivedRecord
from common.outage import Outage
from common.retry import Backoff
from common.settings import KafkaSettings
from common.threads import start_thread

_POLL_SECONDS = 0.5
# Between two polls, so that a busy topic costs a few fetches a second instead of hundreds.
_PAUSE_SECONDS = 0.1
# Records per second that a page can draw beside everything else on a laptop, and more than a person can read.
_RATE = 300
# A broker that starts with the console takes this long, and its topics are created after that.
_PATIENCE_SECONDS = 60.0

logger = logging.getLogger(__name__)


class Follower:
    """Passes the records of a topic to `take`, starting with the newest `last` of each partition."""

    def __init__(
        self,
        settings: KafkaSettings,
        topic: str,
        take: Callable[[list[ReceivedRecord]], None],
        *,
        last: int,
        most_ahead: int | None = None,
        on_skip: Callable[[int], None] = lambda _: None,
    ) -> None:
        """With `most_ahead`, it reads at most some hundred records per second. If more than `most_ahead` records of a
        partition are unread, it reads only the newest, and `on_skip` gets the number of skipped ones.
        """
        self._settings = settings
        self._topic = topic
        self._take = take
        self._last = last
        self._most_ahead = most_ahead
        self._at_once = None if most_ahead is None else _RATE // 3
        self._on_skip = on_skip
        self._next: dict[int, int] = {}
        self.problem: str | None = "not read yet"
        """Why no records arrive, if so."""

    def start(self) -> None:
        """Start following."""

        def died() -> None:
            self.problem = "the console's thread died: its log says why; restart it"

        start_thread(f"follows {self._topic}", self._run, died)

    def _run(self) -> None:
        outage = Outage(f"following {self._topic}", Backoff(first=0.2, most=3.0), patience=_PATIENCE_SECONDS)
        while True:
            try:
                self._follow(outage)
            except (PulseError, KafkaError, OSError) as error:
                self.problem = str(error) if isinstance(error, PulseError) else f"Kafka does not answer: {error!r}"
                time.sleep(outage.failed(error))

    def _follow(self, outage: Outage) -> None:
        """Follow until it fails; the next call continues there."""
        tail = KafkaTail(self._settings, self._topic, self._next, last=self._last)
        try:
            outage.over()
            self.problem = None
            while True:
                records = tail.poll(_POLL_SECONDS, self._at_once)
                if records:
                    self._take(records)
                    if self._most_ahead is not None and (left_out := tail.skip(self._most_ahead)):
                        self._on_skip(left_out)
                    self._next = tail.positions
                time.sleep(_PAUSE_SECONDS if self._most_ahead is None else max(_PAUSE_SECONDS, len(records) / _RATE))
        finally:
            tail.close()
