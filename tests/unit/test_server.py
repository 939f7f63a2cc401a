"""How many connections a worker takes."""

import resource

import pytest

from api.server import most_connections


@pytest.mark.parametrize(
    ("descriptors", "most"),
    [(resource.RLIM_INFINITY, 1000), (20_000, 1000), (1024, 924), (256, 156), (100, 50)],
)
def test_a_worker_takes_no_more_connections_than_it_has_descriptors_for(
    monkeypatch: pytest.MonkeyPatch, descriptors: int, most: int
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (descriptors, descriptors))
    assert most_connections(1000) == most
