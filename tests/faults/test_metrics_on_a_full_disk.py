"""The disk of the workers' metrics files fills up: a write to a file without reserved blocks would kill a worker."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests import MIB
from tests.servers import ApiServer, api_without_kafka
from tests.small_disks import MountError, mounted, mounted_ext4
from tests.waiting import eventually

_MANY_LABELS = 40


@pytest.fixture(params=["ext4", "tmpfs"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A folder on a small disk."""
    folder = tmp_path / "disk"
    folder.mkdir()
    try:
        with mounted(folder, 16 * MIB) if request.param == "tmpfs" else mounted_ext4(folder, 16 * MIB):
            yield folder
    except MountError as error:
        pytest.skip(str(error))


def fill(folder: Path) -> None:
    """Fill the disk to the last block."""
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


def test_a_new_series_on_a_full_disk_kills_no_worker(tmp_path: Path, disk: Path) -> None:
    with api_without_kafka(tmp_path, PROMETHEUS_MULTIPROC_DIR=str(disk / "metrics")) as api:
        before = api.worker_pids()
        fill(disk)
        make_new_series(api)
        assert api.worker_pids() == before
        assert requests.get(f"{api.url}/metrics", timeout=10).status_code == 200


def test_a_worker_killed_on_a_full_disk_is_replaced_and_its_counters_continue(tmp_path: Path, disk: Path) -> None:
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
