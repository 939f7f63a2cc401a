"""Which ports the local stack uses, and what it says when they cannot be had."""

import socket

import pytest

from common.errors import LocalStackError
from common.settings import Address, LocalSettings, load_local_settings
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


def test_a_uri_that_cannot_be_read_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LocalStackError, match=r"\AMONGO_URI cannot be read: .*\Z"):
        ports.mongodb_port(settings(monkeypatch, MONGO_URI="mongodb://localhost:port"))


def test_a_taken_port_is_named_with_the_variable_that_changes_it() -> None:
    with socket.create_server((ports.HOST, 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(LocalStackError, match=rf"port {port}: Address already in use\. .*API_ADDR"):
            ports.listen("API_ADDR", Address(ports.HOST, port))


def test_a_free_port_can_be_listened_on() -> None:
    ports.listen("API_ADDR", Address(ports.HOST, ports.free_port())).close()


def test_waiting_ends_when_somebody_listens() -> None:
    with socket.create_server((ports.HOST, 0)) as server:
        ports.wait_until_answers(server.getsockname()[1], timeout=0)


def test_waiting_ends_with_an_error_when_nobody_listens() -> None:
    with pytest.raises(LocalStackError, match="Nobody answered"):
        ports.wait_until_answers(ports.free_port(), timeout=0)
