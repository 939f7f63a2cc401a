"""The load test's report and chart account for every event, and name unknown numbers."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from loadtest import chart
from loadtest.report import Answer, Run, Unknown, lines

AWAY = Unknown("it is elsewhere")


def run(**fields: Any) -> Run:
    """A run with 100 batches of 100 events, answered after 1 to 100 ms and all stored; `fields` override this."""
    answers = [Answer(number / 50, number / 1000, 100) for number in range(1, 101)]
    there = [number / 2000 for number in range(10_000)]
    whole: dict[str, Any] = {"answers": answers, "in_kafka": there, "in_mongodb": there, "seen_stored": 5.1}
    return Run("http://api", 10_000, 100, 20, **{**whole, **fields})


def refusing(batches: int) -> Run:
    """A run with N refused batches, and the others stored."""
    whole = run()
    answers = [Answer(answer.at, answer.took, 0) for answer in whole.answers[:batches]] + whole.answers[batches:]
    there = [0.5] * (10_000 - 100 * batches)
    return run(answers=answers, in_kafka=there, in_mongodb=there, refused=Counter({"HTTP 503, full": 100 * batches}))


def test_the_report_of_a_run_without_loss() -> None:
    assert lines(run()) == [
        "accepted      10,000 of 10,000",
        "refused       0",
        "in Kafka      10,000 of 10,000",
        "in MongoDB    10,000 of 10,000",
        "accepting     5,000 events/s, 2.00 s in all",
        "answers       p50 50 ms, p95 95 ms, p99 99 ms",
        "last stored   5.1 s after the first was sent",
    ]


def test_missing_events_are_counted() -> None:
    assert "in MongoDB    9,990 of 10,000, 10 missing" in lines(run(in_mongodb=[0.5] * 9_990))


def test_refused_events_are_reported_with_their_reason() -> None:
    assert lines(refusing(3))[:3] == [
        "accepted      9,700 of 10,000, 300 missing",
        "refused       300",
        "              300 events: HTTP 503, full",
    ]


def test_unknown_numbers_do_not_count_as_missing() -> None:
    report = lines(run(in_kafka=AWAY, in_mongodb=AWAY))
    assert report[2:4] == ["in Kafka      not known: it is elsewhere", "in MongoDB    not known: it is elsewhere"]


def test_all_percentiles_of_a_single_answer_are_its_latency() -> None:
    assert run(answers=[Answer(1.0, 0.25, 100)]).percentiles == {"p50": 0.25, "p95": 0.25, "p99": 0.25}


@pytest.mark.parametrize(
    ("result", "complete"),
    [
        (run(), True),
        (run(in_kafka=AWAY), True),
        (run(in_kafka=[0.5] * 9_999), False),
        (run(in_mongodb=[]), False),
        (refusing(1), False),
    ],
    ids=["all stored", "Kafka not seen", "one missing in Kafka", "none stored", "a batch refused"],
)
def test_a_run_is_complete_when_no_event_is_known_to_be_missing(result: Run, *, complete: bool) -> None:
    assert result.complete is complete


@pytest.mark.parametrize(
    "result", [run(), refusing(100), run(in_kafka=AWAY, in_mongodb=AWAY)], ids=["whole", "nothing accepted", "unseen"]
)
def test_every_run_has_a_chart(result: Run, tmp_path: Path) -> None:
    chart.draw(result, tmp_path / "new" / "chart.png")
    with Image.open(tmp_path / "new" / "chart.png") as picture:
        assert picture.width > 1000
