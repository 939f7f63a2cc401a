"""The workers' metrics lie on a disk that fills up: a write to a file without blocks would end a worker by SIGBUS."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.servers import ApiServer, api_without_kafka
from tests.small_disks import MIB, MountError, mounted, mounted_ext4
from tests.waiting import eventually

_MANY_LABELS = 40


@pytest.fixture(params=["ext4", "tmpfs"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A folder on a small disk of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    try:
        with mounted(folder, 16 * MIB) if request.param == "tmpfs" else mounted_ext4(folder, 16 * MIB):
            yield folder
    except MountError as error:
        pytest.skip(str(error))


def fill(folder: Path) -> None:
    """Leave no block free."""
    with (folder / "filler").open("wb", buffering=0) as file:
        for size in (65_536, 4096, 512, 1):
            with pytest.raises(OSError, match="No space left"):
                while True:
                    file.write(b"x" * size)
        os.fsync(file.fileno())


def make_new_series(api: ApiServer) -> None:
    for number in range(_MANY_LABELS):
        method = ("GET", "PUT", "PATCH", "DELETE")[number % 4]
        path = ("/api/v1/track", "/api/v1/track/batch", "/health", "/docs", "/openapi.json")[number % 5]
        requests.request(method, f"{api.url}{path}", timeout=10)


def test_no_worker_dies_of_a_new_series_when_the_disk_is_full(tmp_path: Path, disk: Path) -> None:
    with api_without_kafka(tmp_path, PROMETHEUS_MULTIPROC_DIR=str(disk / "metrics")) as api:
        before = api.worker_pids()
        fill(disk)
        make_new_series(api)
        assert api.worker_pids() == before
        assert requests.get(f"{api.url}/metrics", timeout=10).status_code == 200


def test_a_worker_that_dies_while_the_disk_is_full_is_replaced_and_counted_on(tmp_path: Path, disk: Path) -> None:
    with api_without_kafka(tmp_path, PROMETHEUS_MULTIPROC_DIR=str(disk / "metrics"), TMPDIR=str(disk)) as api:
        make_new_series(api)
        fill(disk)
        (dead,) = api.worker_pids()
        os.kill(dead, signal.SIGKILL)
        eventually(lambda: api.worker_pids() and api.worker_pids() != {dead}, what="another worker")
        api.wait_until_ready()
        lines = requests.get(f"{api.url}/metrics", timeout=10).text.splitlines()
        counted = [line for line in lines if line.startswith("pulse_api_requests_total") and 'status="405"' in line]
        assert counted
