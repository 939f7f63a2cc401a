"""The ports of the local stack, and the errors about ports in use."""

import re
import socket

import pytest

from common.addresses import Address
from common.errors import LocalStackError
from common.settings import LocalSettings, load_local_settings
from ops.local import ports


def settings(monkeypatch: pytest.MonkeyPatch, **env: str) -> LocalSettings:
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    return load_local_settings()


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_the_brokers_port_is_read_from_its_address(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    assert ports.broker_port(settings(monkeypatch, KAFKA_BROKERS=f"{host}:19092")) == 19092


@pytest.mark.parametrize("brokers", ["kafka:9092", "localhost:9092,localhost:9093"])
def test_a_broker_elsewhere_or_several_are_refused_by_the_variables_name(
    monkeypatch: pytest.MonkeyPatch, brokers: str
) -> None:
    with pytest.raises(LocalStackError, match=r"^KAFKA_BROKERS .*localhost:9092"):
        ports.broker_port(settings(monkeypatch, KAFKA_BROKERS=brokers))


@pytest.mark.parametrize(
    ("uri", "port"), [("mongodb://localhost", 27017), ("mongodb://127.0.0.1:28017/?w=majority", 28017)]
)
def test_the_databases_port_is_read_from_its_uri(monkeypatch: pytest.MonkeyPatch, uri: str, port: int) -> None:
    assert ports.mongodb_port(settings(monkeypatch, MONGO_URI=uri)) == port


@pytest.mark.parametrize("uri", ["mongodb://db.example", "mongodb://localhost,localhost:2", "mongodb+srv://localhost"])
def test_a_database_elsewhere_or_several_are_refused_by_the_variables_name(
    monkeypatch: pytest.MonkeyPatch, uri: str
) -> None:
    with pytest.raises(LocalStackError, match=r"^MONGO_URI .*mongodb://localhost:27017"):
        ports.mongodb_port(settings(monkeypatch, MONGO_URI=uri))


def test_all_ports_in_use_are_named_with_lines_for_dot_env_that_fix_it() -> None:
    with socket.create_server((ports.HOST, 0)) as one, socket.create_server((ports.HOST, 0)) as two:
        taken = sorted(server.getsockname()[1] for server in (one, two))
        addresses = dict(zip(("KAFKA_BROKERS", "API_ADDR"), (Address(ports.HOST, port) for port in taken), strict=True))
        with pytest.raises(LocalStackError) as refusal:
            ports.check({**addresses, "MONGO_URI": Address(ports.HOST, ports.free_port())})
    said = re.fullmatch(
        rf"Ports {taken[0]} and {taken[1]} are in use\. .*\.env, such as:\n"
        r"  KAFKA_BROKERS=localhost:(\d+)\n"
        rf"  API_ADDR={ports.HOST}:(\d+)",
        str(refusal.value),
    )
    assert said
    assert len({*taken, *map(int, said.groups())}) == 4


def test_ports_in_use_get_different_proposals() -> None:
    with socket.create_server((ports.HOST, 0)) as server:
        taken = Address("", server.getsockname()[1])
        with pytest.raises(LocalStackError) as refusal:
            ports.check({"API_ADDR": taken, "METRICS_ADDR": taken})
    first, second = re.findall(r"_ADDR=:(\d+)", str(refusal.value))
    assert first != second


def test_an_address_of_another_machine_is_named_with_its_variable() -> None:
    with pytest.raises(LocalStackError, match=r"192\.0\.2\.1:8080: Cannot assign .*API_ADDR"):
        ports.check({"API_ADDR": Address("192.0.2.1", 8080)})


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
@pytest.mark.parametrize(("taken", "wanted"), [("::1", "::1"), ("::1", ""), ("127.0.0.1", ""), ("127.0.0.1", "::")])
def test_a_port_in_use_on_one_interface_is_in_use(taken: str, wanted: str) -> None:
    with socket.create_server((taken, 0), family=Address(taken, 0).family) as server:
        wish = Address(wanted, server.getsockname()[1])
        with pytest.raises(LocalStackError, match=rf"^Port {wish.port} is in use\. .*such as:\n  API_ADDR=\S*:\d+$"):
            ports.check({"API_ADDR": wish})


def test_a_free_port_can_be_listened_on() -> None:
    ports.check({"API_ADDR": Address(ports.HOST, ports.free_port())})


def test_the_wait_ends_when_a_server_listens() -> None:
    with socket.create_server((ports.HOST, 0)) as server:
        ports.wait_until_answers(server.getsockname()[1], timeout=0)


def test_the_wait_ends_with_an_error_when_no_server_listens() -> None:
    with pytest.raises(LocalStackError, match="No answer on port"):
        ports.wait_until_answers(ports.free_port(), timeout=0)
