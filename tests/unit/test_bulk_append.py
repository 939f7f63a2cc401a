"""Records in bulk are those that the Kafka client would have made."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kafka.record.memory_records import MemoryRecordsBuilder

from common import bulk_append

if not bulk_append.supported():
    pytest.skip("only kafka-python-ng 2.2.3 is sent to in bulk", allow_module_level=True)

NOW_MS = 1_790_000_000_123
keys = st.binary(min_size=1, max_size=300)
values = st.one_of(st.binary(max_size=300), st.integers(0, 20_000).map(bytes))


@given(
    st.lists(st.tuples(keys, values), min_size=1, max_size=300),
    st.sampled_from([500, 20_000, 1_000_000]),
    st.sampled_from([0, 1, 2, 3, 4]),
)
def test_a_batch_has_the_bytes_that_the_clients_builder_would_have_written(
    records: list[tuple[bytes, bytes]], batch_size: int, codec: int
) -> None:
    ours, theirs = (MemoryRecordsBuilder(2, codec, batch_size) for _ in range(2))
    for key, value in records:
        written = bulk_append.write(ours, NOW_MS, key, value)
        assert written == (theirs.append(NOW_MS, key, value, []) is not None)
    assert ours.next_offset() == theirs.next_offset()
    ours.close()
    theirs.close()
    assert ours.buffer() == theirs.buffer()
