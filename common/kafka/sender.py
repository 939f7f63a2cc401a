"""Sends records to a topic, and waits for Kafka's acknowledgement of each."""

import contextlib
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from kafka import KafkaProducer
from kafka.errors import KafkaError, KafkaTimeoutError, MessageSizeTooLargeError, RecordListTooLargeError
from kafka.future import Future

from common.kafka import bulk_append
from common.kafka.client import connect, where_known
from common.kafka.records import Record
from common.settings import KafkaSettings

MAX_RECORD_BATCH_BYTES = 1_000_000
"""The largest batch of records that the client builds; a broker accepts 1,048,588 bytes by default."""
_MAX_REQUEST_BYTES = 2 * MAX_RECORD_BATCH_BYTES
_METADATA_TIMEOUT_MS = 10_000


class RecordSender(Protocol):
    """Sends records to one topic and returns for each whether Kafka has it."""

    def send(self, records: Sequence[Record]) -> list[Exception | None]:
        """Send the records and wait for Kafka's answer: None for each acknowledged, else its error.

        Records of one partition keep their order. An error says nothing about whether Kafka stored the
        record. Blocks until all is answered or the timeout is over; raises nothing for a broker's fault.
        """

    def close(self) -> None:
        """Drop the connection. Does not wait."""


class KafkaSender:
    """`RecordSender` on a real broker. Connects when first used. For one thread at a time.

    The client itself never retries: a caller that sends a failed record again before any later one keeps the order of
    each partition.
    """

    def __init__(self, settings: KafkaSettings, topic: str, *, timeout: float = 30.0) -> None:
        """`timeout`: seconds to wait for the acknowledgement of a batch of records (one per partition)."""
        self._settings = settings
        self._topic = topic
        self._timeout = timeout
        self._producer: Any = None
        self._in_bulk = bulk_append.supported()

    def send(self, records: Sequence[Record]) -> list[Exception | None]:
        answers: list[Any] = []
        failure: Exception | None = None
        try:
            producer = self._connect()
            answers.extend(self._append(producer, records))
            producer.flush(timeout=self._timeout)
        except (KafkaError, OSError) as error:
            failure = error
        unfinished = failure or KafkaTimeoutError(f"no acknowledgement within {self._timeout:g} s")
        results = [answer.exception if answer.is_done else unfinished for answer in answers]
        results += [unfinished] * (len(records) - len(answers))
        if unfinished in results:
            # Otherwise the client would send unfinished records later, after our next ones.
            self.close()
        return results

    def close(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            # kafka-python raises an error about unsent records.
            with contextlib.suppress(KafkaError):
                producer.close(timeout=0)

    def _append(self, producer: Any, records: Sequence[Record]) -> Iterable[Any]:
        """The futures of the records' answers, in order."""
        if self._in_bulk and bulk_append.takes(producer, records):
            return bulk_append.append(producer, self._topic, records)
        return (self._append_one(producer, record) for record in records)

    def _append_one(self, producer: Any, record: Record) -> Any:
        """The future of a record's answer."""
        # The client refuses a record without both.
        value = b"" if record.key is None and record.value is None else record.value
        try:
            return producer.send(self._topic, value=value, key=record.key, headers=list(record.headers))
        except MessageSizeTooLargeError as error:
            # kafka-python raises it, kafka-python-ng returns it as the answer.
            return Future().failure(error)

    def _connect(self) -> Any:
        if self._producer is None:
            self._producer = connect(
                KafkaProducer,
                self._settings,
                acks="all",
                retries=0,
                max_in_flight_requests_per_connection=1,
                batch_size=MAX_RECORD_BATCH_BYTES,
                max_request_size=_MAX_REQUEST_BYTES,
                # `flush` sends; until then a batch is only filled, so that a call makes one batch per partition.
                linger_ms=1000,
                max_block_ms=_METADATA_TIMEOUT_MS,
                request_timeout_ms=int(self._timeout * 1000),
                compression_type=None if self._settings.compression == "none" else self._settings.compression,
                # kafka-python turns this on by default, and then requires its own retries.
                **where_known(KafkaProducer, enable_idempotence=False),
            )
            if self._in_bulk:
                bulk_append.lift_limit(self._producer)
        return self._producer


def never_takes(error: Exception) -> bool:
    """Whether this error of `send` means that Kafka will never accept the record."""
    return isinstance(error, MessageSizeTooLargeError | RecordListTooLargeError)
