"""The consumer's source of records, where no broker is needed."""

import pytest
from kafka.errors import CommitFailedError

from common.kafka import KafkaSource
from common.settings import load_local_settings


def test_a_failed_commit_is_logged_in_one_sentence(caplog: pytest.LogCaptureFixture) -> None:
    source = KafkaSource(load_local_settings().kafka, "group")
    with caplog.at_level("INFO"):
        source._after_commit({}, CommitFailedError())
    [line] = caplog.records
    error = vars(line)["error"]
    assert error.startswith("CommitFailedError: Commit cannot be completed since")
    assert error.rstrip(".").endswith("to another member")
