"""`python -m consumer`: puts the parts together, waits for the servers, and stops on SIGTERM or SIGINT."""

import gc
import logging
import logging.config
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import partial

from prometheus_client import CollectorRegistry

from common.errors import PulseError, ReadError, SettingsError, TooManyDeadLettersError
from common.kafka import KafkaError, KafkaSender, reachable
from common.logs import logging_config
from common.metrics import ConsumerMetrics
from common.outage import Outage
from common.retry import Backoff
from common.settings import ConsumerSettings, load_consumer_settings, read_dotenv
from consumer.buffer import Buffer
from consumer.dead_letters import DeadLetters
from consumer.health import Health, serve
from consumer.loop import Loop
from consumer.policy import DeathLimit
from consumer.source import KafkaSource
from consumer.watchdog import Watchdog
from consumer.writer import MongoWriter

logger = logging.getLogger("consumer")

# A rebalance waits for a flush: it must not take half a minute.
_DEAD_LETTER_SECONDS = 10.0


def main() -> None:
    """The process: runs until a signal; leaves with status 1 and one line when it cannot start."""
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    try:
        read_dotenv()
        settings = load_consumer_settings()
        logging.config.dictConfig(logging_config(settings.log))
        registry = CollectorRegistry()
        health = Health()
    except SettingsError as error:
        sys.exit(f"consumer: {error}")
    try:
        serve(settings.metrics_address, health, registry)
    except OSError as error:
        sys.exit(f"consumer: cannot listen on METRICS_ADDR={settings.metrics_address}: {error.strerror}")

    writer = MongoWriter(settings.mongo)
    Watchdog(health, stopping, partial(reachable, settings.kafka)).start()
    metrics = ConsumerMetrics(registry)
    health.show_in(metrics)
    if _until_it_works("connecting to MongoDB", writer.ensure_indexes, health, stopping):
        _consume(settings, writer, metrics, health, stopping)
    writer.close()


def _consume(
    settings: ConsumerSettings,
    writer: MongoWriter,
    metrics: ConsumerMetrics,
    health: Health,
    stopping: threading.Event,
) -> None:
    health.store(up=writer.available())
    source = KafkaSource(settings.kafka, settings.group_id, max_records=settings.batch_size)
    if not _until_it_works("connecting to Kafka", source.connect, health, stopping):
        return
    loop = Loop(
        source,
        Buffer(settings.batch_size, settings.flush_interval, time.monotonic),
        writer,
        DeadLetters(
            KafkaSender(settings.kafka, settings.kafka.dlq_topic, timeout=_DEAD_LETTER_SECONDS), settings.kafka.topic
        ),
        max_retries=settings.max_retries,
        death_limit=DeathLimit(settings.dlq_max_ratio),
        metrics=metrics,
        health=health,
        backoff=Backoff(),
    )
    # All modules and parts stay: collecting garbage without looking at them takes a sixth off the CPU time of an event.
    gc.freeze()
    try:
        loop.run(stopping.is_set)
    except (TooManyDeadLettersError, ReadError) as error:
        logger.critical("stopping: %s", error)
        sys.exit(1)
    except Exception:
        logger.exception("failed; what is not committed will be read again")
        sys.exit(1)


def _until_it_works(what: str, attempt: Callable[[], None], health: Health, stopping: threading.Event) -> bool:
    """Try until the server answers or the process is to stop; whether it answered."""
    outage = Outage(what, Backoff(most=5.0))
    while not stopping.is_set():
        try:
            attempt()
        except (KafkaError, PulseError, OSError) as error:
            # A restart would not bring the server.
            health.progressed()
            stopping.wait(outage.failed(error))
        else:
            outage.over()
            return True
    return False


if __name__ == "__main__":
    main()
