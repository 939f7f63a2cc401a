"""`python -m consumer`: assembles the parts, waits for the servers, and stops on SIGTERM or SIGINT."""

import logging
import logging.config
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import partial

from prometheus_client import CollectorRegistry

from common.errors import IndexConflictError, PulseError, ReadError, SettingsError, TooManyDeadLettersError, TopicError
from common.garbage import collect_rarely
from common.kafka import KafkaError, KafkaSender, KafkaSource, reachable
from common.logs import log_settings, logging_config
from common.metrics import ConsumerMetrics
from common.outage import Outage
from common.retry import Backoff
from common.settings import ConsumerSettings, load_consumer_settings, read_dotenv
from common.threads import start_thread
from consumer.buffer import Buffer
from consumer.dead_letters import DeadLetters
from consumer.forgotten import MongoForgotten
from consumer.health import Health, serve
from consumer.loop import Loop
from consumer.policy import DeathLimit
from consumer.topic_watch import TopicWatch
from consumer.watchdog import Watchdog
from consumer.writer import MongoWriter

logger = logging.getLogger("consumer")

# A rebalance waits for a flush: it must not take half a minute.
_DEAD_LETTER_SECONDS = 10.0


def main() -> None:
    """The process: runs until a signal; exits with status 1 and one line if it cannot start."""
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    try:
        read_dotenv()
        settings = load_consumer_settings()
        logging.config.dictConfig(logging_config(settings.log))
        log_settings("consumer", settings)
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
    topics = TopicWatch(settings.kafka, health)
    topics.start(on_death=lambda: os._exit(1))
    metrics = ConsumerMetrics(registry)
    health.show_in(metrics)
    prepared = threading.Event()
    start_thread("indexes", partial(_prepare, writer, health, prepared, stopping), on_death=lambda: os._exit(1))
    while not prepared.wait(0.1) and not stopping.is_set():
        # An index may take hours, and a restart would not start MongoDB.
        health.progressed()
    if not stopping.is_set():
        _consume(settings, writer, topics, metrics=metrics, health=health, stopping=stopping)
    writer.close()


def _prepare(writer: MongoWriter, health: Health, prepared: threading.Event, stopping: threading.Event) -> None:
    """Create the indexes. Sets `prepared` as soon as events can be stored, before all indexes are built."""
    if _until_it_works("preparing MongoDB", partial(_ensure_indexes, writer, health), stopping):
        prepared.set()
        _until_it_works("making indexes", writer.complete_indexes, stopping)


def _ensure_indexes(writer: MongoWriter, health: Health) -> None:
    try:
        writer.ensure_indexes()
    except IndexConflictError as error:
        health.store(up=False, problem=str(error))
        raise


def _consume(
    settings: ConsumerSettings,
    writer: MongoWriter,
    topics: TopicWatch,
    *,
    metrics: ConsumerMetrics,
    health: Health,
    stopping: threading.Event,
) -> None:
    health.store(up=writer.available())
    health.kafka_tried()
    source = KafkaSource(settings.kafka, settings.group_id, topic_missing=lambda: topics.events_missing)
    loop = Loop(
        source,
        Buffer(settings.batch_size, settings.flush_interval, time.monotonic),
        writer,
        MongoForgotten(writer.events),
        DeadLetters(
            KafkaSender(settings.kafka, settings.kafka.dlq_topic, timeout=_DEAD_LETTER_SECONDS),
            settings.kafka.topic,
            writer,
            settings.kafka.dlq_topic,
            metrics,
        ),
        max_retries=settings.max_retries,
        death_limit=DeathLimit(settings.dlq_max_ratio),
        metrics=metrics,
        health=health,
        backoff=Backoff(),
    )
    collect_rarely()
    try:
        # A restart would not start Kafka.
        while _until_it_works("connecting to Kafka", source.connect, stopping, on_failure=health.progressed):
            try:
                loop.run(stopping.is_set)
                break
            except TopicError as error:
                # The consumer reads the topic again once it exists.
                logger.error("the topic is gone: left the group", extra={"error": str(error)})  # noqa: TRY400
    except (TooManyDeadLettersError, ReadError) as error:
        logger.critical("stopping: %s", error)
        sys.exit(1)
    except Exception:
        logger.exception("failed; uncommitted records will be read again")
        sys.exit(1)


def _until_it_works(
    what: str, attempt: Callable[[], None], stopping: threading.Event, on_failure: Callable[[], None] = lambda: None
) -> bool:
    """Try until the server answers or the process must stop; returns whether it answered."""
    outage = Outage(what, Backoff(most=5.0))
    while not stopping.is_set():
        try:
            attempt()
        except (KafkaError, PulseError, OSError) as error:
            on_failure()
            stopping.wait(outage.failed(error))
        else:
            outage.over()
            return True
    return False


if __name__ == "__main__":
    main()
