"""The plan for a rate of events has exactly as many parts as it needs."""

import random
from datetime import UTC, datetime
from itertools import chain
from statistics import mean

import bson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.event_json import decode, encode
from loadtest import figures
from loadtest.journeys import generated_journeys
from loadtest.plan import LEAST_API_PODS, LEAST_PARTITIONS, consumer_rate, main, plan, table

rates = st.integers(min_value=1, max_value=10_000_000)
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def round_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """A consumer needs 20 us of CPU per event and 40 ms per write of 500. An event has 800 bytes, 400 compressed;
    stored, it has 500 bytes and 200 bytes of index entries.
    """
    of_an_event = {"CONSUMER": 20, "CONSUMER_BATCH": 500, "BULK_WRITE": 40, "EVENT": 800, "DOCUMENT": 500}
    for name, value in {**of_an_event, "COMPRESSED": 0.5, "INDEX_ENTRIES": 200, "COPIES": 3, "RETENTION": 7}.items():
        monkeypatch.setattr(f"loadtest.plan.{name}", figures.Figure(value, "", ""))


@given(rate=rates)
def test_every_part_can_process_its_share_and_one_part_less_could_not(rate: int) -> None:
    needed = plan(rate)
    for count, each, least in (
        (needed.api_pods_batched, 1e6 / figures.API_BATCHED.value, LEAST_API_PODS),
        (needed.api_pods_single, 1e6 / figures.API_SINGLE.value, LEAST_API_PODS),
        (needed.consumers, consumer_rate(), 1),
        (needed.shards, figures.UPSERTS.value, 1),
    ):
        can = each * figures.BUSY.value
        assert count == least or (count - 1) * can < rate * 1.000_001
        assert count * can >= rate * 0.999_999


@given(rate=rates)
def test_there_are_partitions_for_more_consumers(rate: int) -> None:
    needed = plan(rate)
    assert needed.partitions == max(LEAST_PARTITIONS, needed.consumers * figures.SPARE_PARTITIONS.value)


@given(rate=rates)
def test_brokers_have_the_disk_and_the_throughput_for_the_rate(rate: int) -> None:
    needed = plan(rate)
    assert needed.brokers >= figures.COPIES.value
    assert needed.brokers * figures.BROKER_DISK.value >= needed.kafka_terabytes
    assert needed.brokers * figures.BROKER.value >= needed.megabytes_a_second


def test_a_consumer_works_or_waits_for_mongodb(round_figures: None) -> None:
    assert consumer_rate() == pytest.approx(500 / (0.010 + 0.040))


def test_sizes_include_all_copies(round_figures: None) -> None:
    needed = plan(1_000)
    assert needed.megabytes_a_second == pytest.approx(0.4)
    assert needed.kafka_terabytes == pytest.approx(0.4 * 86_400 * 7 * 3 / 1e6)
    assert needed.mongodb_terabytes_a_day == pytest.approx(0.7 * 86_400 * 3 / 1e6)


def test_a_small_rate_needs_the_initial_values_of_the_manifests() -> None:
    needed = plan(1)
    assert (needed.api_pods_single, needed.partitions, needed.consumers, needed.shards, needed.brokers) == (
        2,
        3,
        1,
        1,
        3,
    )


def test_the_table_has_a_column_for_each_rate() -> None:
    lines = table((1_000, 250_000)).splitlines()
    assert [cell.strip() for cell in lines[0].split("|")] == ["", "events a second", "1,000", "250,000", ""]
    assert {line.count("|") for line in lines} == {4}


def test_the_sizes_of_an_event_are_those_of_the_sample_shoppers() -> None:
    journeys = generated_journeys(300, "seed-818650a811c6", NOW, random.Random(1))
    events = chain.from_iterable(journeys)
    records = [encode({**event, "received_at": NOW, "protocol": "pulse"}) for event in events]
    ours = {"processed_at": NOW, "_id": bson.ObjectId(), "kafka": {"partition": 0, "offset": bson.Int64(1)}}
    documents = [{**decode(record), **ours} for record in records]
    assert mean(map(len, records)) == pytest.approx(figures.EVENT.value, rel=0.02)
    assert mean(len(bson.encode(document)) for document in documents) == pytest.approx(figures.DOCUMENT.value, rel=0.02)


def test_a_malformed_rate_is_refused_with_an_example(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["plan", "--rate", "many"])
    with pytest.raises(SystemExit):
        main()
    assert "many is no rate; give a whole number above 0, such as 50000" in capsys.readouterr().err


def test_the_command_prints_the_table_of_the_given_rates(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["plan", "--rate", "50000", "1,000,000"])
    assert main() == 0
    assert capsys.readouterr().out.startswith(table((50_000, 1_000_000)))
