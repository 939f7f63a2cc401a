"""The interfaces on which the API listens."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from ops.local.ports import free_port
from tests.servers import ApiServer

pytestmark = pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")


@pytest.fixture
def api(tmp_path: Path) -> Iterator[ApiServer]:
    """An API without Kafka, not started."""
    server = ApiServer(tmp_path, {"KAFKA_BROKERS": f"127.0.0.1:{free_port()}", "API_WORKERS": "1"})
    yield server
    server.kill()


def test_without_a_host_it_listens_on_all_interfaces(api: ApiServer) -> None:
    api.env["API_ADDR"] = api.env["API_ADDR"].removeprefix("127.0.0.1")
    api.start()
    api.wait_until_ready()
    assert requests.get(api.url.replace("127.0.0.1", "[::1]") + "/health/live", timeout=5).ok


def test_it_listens_on_an_address_of_ipv6(api: ApiServer) -> None:
    api.env["API_ADDR"] = api.env["API_ADDR"].replace("127.0.0.1", "[::1]")
    api.url = f"http://{api.env['API_ADDR']}"
    api.start()
    api.wait_until_ready()
