"""`python -m consumer`: puts the parts together, waits for the servers, and stops on SIGTERM or SIGINT."""

import logging
import logging.config
import signal
import sys
import threading
import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry
from pymongo.errors import PyMongoError

from common.errors import PulseError, SettingsError
from common.kafka import KafkaError, KafkaSender
from common.logs import logging_config
from common.metrics import ConsumerMetrics
from common.retry import Backoff
from common.settings import ConsumerSettings, load_consumer_settings
from consumer.buffer import Buffer
from consumer.dead_letters import DeadLetters
from consumer.health import Health, serve
from consumer.loop import Loop
from consumer.source import KafkaSource
from consumer.writer import MongoWriter

logger = logging.getLogger("consumer")


def main() -> None:
    """The process: runs until a signal; leaves with status 1 and one line when it cannot start."""
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    try:
        settings = load_consumer_settings()
        logging.config.dictConfig(logging_config(settings.log))
        registry = CollectorRegistry()
        health = Health()
        serve(settings.metrics_address, health, registry)
        writer = MongoWriter(settings.mongo)
    except (SettingsError, PyMongoError) as error:
        sys.exit(f"consumer: {error}")
    except OSError as error:
        sys.exit(f"consumer: cannot listen on METRICS_ADDR={settings.metrics_address}: {error.strerror}")

    if _until_it_works("MongoDB", writer.ensure_indexes, stopping):
        health.store(up=True)
        _consume(settings, writer, ConsumerMetrics(registry), health, stopping)
    writer.close()


def _consume(
    settings: ConsumerSettings,
    writer: MongoWriter,
    metrics: ConsumerMetrics,
    health: Health,
    stopping: threading.Event,
) -> None:
    source = KafkaSource(settings.kafka, settings.group_id, max_records=settings.batch_size)
    if not _until_it_works("Kafka", source.connect, stopping):
        return
    letters = DeadLetters(KafkaSender(settings.kafka, settings.kafka.dlq_topic), settings.kafka.topic)
    buffer = Buffer(settings.batch_size, settings.flush_interval, time.monotonic)
    loop = Loop(source, buffer, writer, letters, metrics=metrics, health=health, backoff=Backoff())
    try:
        loop.run(stopping.is_set)
    except Exception:
        logger.exception("failed; what is not committed will be read again")
        sys.exit(1)


def _until_it_works(server: str, attempt: Callable[[], None], stopping: threading.Event) -> bool:
    """Try until the server answers or the process is to stop; whether it answered."""
    failed = False
    for pause in Backoff(most=5.0).pauses():
        try:
            attempt()
        except (KafkaError, PulseError, OSError) as error:
            if not failed:
                logger.warning("waiting for a server", extra={"server": server, "error": str(error)})
            failed = True
        else:
            if failed:
                logger.info("the server answers", extra={"server": server})
            return True
        if stopping.wait(pause):
            break
    return False


if __name__ == "__main__":
    main()
