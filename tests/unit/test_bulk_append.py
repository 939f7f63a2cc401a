"""Records appended in bulk have the bytes that the Kafka client would have written."""

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kafka.partitioner.default import murmur2
from kafka.record.memory_records import MemoryRecordsBuilder

from common.kafka import bulk_append

if not bulk_append.supported():
    pytest.skip("only kafka-python-ng 2.2.3 has the bulk append", allow_module_level=True)

NOW_MS = 1_790_000_000_123
MAX_MEMORY = 9 * 1024 * 1024
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


@given(st.lists(keys, min_size=1, max_size=50))
def test_a_key_has_the_hash_that_the_client_would_compute(some: list[bytes]) -> None:
    hashes = bulk_append.Hashes()
    assert [hashes[key] for key in some * 2] == [murmur2(key) for key in some * 2]


@pytest.mark.parametrize("size", [8, 36, 1024])
def test_the_hashes_of_many_keys_take_little_memory(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk_append, "murmur2", hash)
    hashes = bulk_append.Hashes()
    tracemalloc.start()
    for number in range(120_000):
        hashes[b"%d" % number + b" " * size]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.5 * MAX_MEMORY
