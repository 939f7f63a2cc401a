"""The policy: the action for each error, and the limit of dead letters."""

import pytest
from bson.errors import InvalidDocument
from pymongo.errors import (
    AutoReconnect,
    DocumentTooLarge,
    NetworkTimeout,
    OperationFailure,
    ServerSelectionTimeoutError,
)

from common.errors import DeliveryError, InvalidEventError, StoreError, TooManyDeadLettersError
from consumer.policy import CODES, Action, DeathLimit, of_error, of_write_error


@pytest.mark.parametrize(
    "error",
    [
        ServerSelectionTimeoutError("no server"),
        AutoReconnect("connection closed"),
        NetworkTimeout("no answer"),
        OperationFailure("not primary", 10107),
        OperationFailure("wrong password", 18),
        StoreError("unknown"),
        DeliveryError("no dead letter topic"),
    ],
)
def test_an_error_of_a_server_is_retried(error: Exception) -> None:
    rule = of_error(error)
    assert rule is not None
    assert rule.action is Action.RETRY


@pytest.mark.parametrize("error", [InvalidDocument("key"), DocumentTooLarge("17 MB"), OverflowError(), UnicodeError()])
def test_an_error_of_bson_concerns_one_document(error: Exception) -> None:
    rule = of_error(error)
    assert rule is not None
    assert rule.action is Action.REFUSE


def test_bytes_that_are_no_event_become_a_dead_letter_at_once() -> None:
    rule = of_error(InvalidEventError("no JSON"))
    assert rule is not None
    assert rule.action is Action.BURY


@pytest.mark.parametrize("error", [KeyError("bug"), AssertionError(), TooManyDeadLettersError(1, 1, 0, "the newest")])
def test_an_error_that_is_not_in_the_table_ends_the_process(error: Exception) -> None:
    assert of_error(error) is None


@pytest.mark.parametrize("code", CODES)
def test_a_write_error_that_the_server_caused_is_retried(code: int) -> None:
    assert of_write_error({"code": code}).action is Action.RETRY


@pytest.mark.parametrize("code", [2, 121, 10334, 52, 66, 16755, 17280, 99999])
def test_any_other_write_error_concerns_one_document(code: int) -> None:
    assert of_write_error({"code": code}).action is Action.REFUSE


def test_a_duplicate_event_id_is_stored_already() -> None:
    assert of_write_error({"code": 11000, "keyPattern": {"event_id": 1}}).action is Action.SKIP


def test_a_duplicate_of_another_index_is_refused() -> None:
    assert of_write_error({"code": 11000, "keyPattern": {"customer_id": 1}}).action is Action.REFUSE


def test_a_few_dead_letters_among_many_records_do_not_stop_the_consumer() -> None:
    limit = DeathLimit(0.5)
    for _ in range(100):
        limit.check(100, 50, "the newest")
        limit.count(100, 50)


def test_more_dead_letters_than_the_ratio_stop_the_consumer() -> None:
    limit = DeathLimit(0.5)
    limit.count(100, 50)
    with pytest.raises(TooManyDeadLettersError, match=r"^151 of the last 200 records .* CONSUMER_DLQ_MAX_RATIO=0.5"):
        limit.check(100, 101, "the newest")


def test_the_ratio_counts_only_after_a_hundred_records() -> None:
    DeathLimit(0.5).check(50, 50, "the newest")
    with pytest.raises(TooManyDeadLettersError):
        DeathLimit(0.5).check(51, 51, "the newest")


def test_only_the_last_thousand_records_count() -> None:
    limit = DeathLimit(0.5)
    limit.count(10_000, 0)
    for _ in range(10):
        limit.count(100, 50)
    with pytest.raises(TooManyDeadLettersError):
        limit.check(100, 100, "the newest")


def test_a_ratio_of_one_never_stops() -> None:
    limit = DeathLimit(1.0)
    for _ in range(100):
        limit.check(100, 100, "the newest")
        limit.count(100, 100)


def test_a_ratio_of_zero_stops_at_the_first() -> None:
    with pytest.raises(TooManyDeadLettersError):
        DeathLimit(0.0).check(100, 1, "the newest")
