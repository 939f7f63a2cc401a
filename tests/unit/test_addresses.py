"""Addresses: which texts are valid, their URLs, and the interfaces that a server listens on."""

import socket
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.addresses import Address, parse_address

needs_ipv6 = pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")


@pytest.mark.parametrize(
    ("text", "address"),
    [
        (":8080", Address("", 8080)),
        ("127.0.0.1:8080", Address("127.0.0.1", 8080)),
        ("[::]:8080", Address("::", 8080)),
        ("[::1]:9092", Address("::1", 9092)),
        ("kafka_1:9092", Address("kafka_1", 9092)),
        ("kafka-0.kafka.pulse.svc.cluster.local.:9092", Address("kafka-0.kafka.pulse.svc.cluster.local.", 9092)),
    ],
)
def test_an_address_is_an_ip_address_or_a_name_and_a_port(text: str, address: Address) -> None:
    assert parse_address(text) == address
    assert str(address) == text


@pytest.mark.parametrize(
    "text",
    [
        *("a..b:9092", ".a:9092", "-a:9092", f"{'a' * 64}:9092", f"{'a.' * 127}a:9092", "kafka", "kafka:"),
        *("::1:9092", "[::1]", "[::1:9092", "[kafka]:9092", "[127.0.0.1]:9092", "[::g]:9092", "[]:9092"),
        *("256.0.0.1:9092", "1.2.3:9092", "münchen:9092", "a b:9092", "kafka:٩٠٩٢", "kafka:0", "kafka:65536", "u@a:1"),
    ],
)
def test_any_other_text_is_no_address(text: str) -> None:
    assert parse_address(text) is None


@given(st.text(string.ascii_letters + string.digits + ".-_", max_size=300))
def test_each_valid_name_can_be_encoded_for_the_resolver(host: str) -> None:
    if parse_address(f"{host}:9092"):
        host.encode("idna")


@pytest.mark.parametrize(
    ("host", "url"),
    [("", "http://localhost:1"), ("::", "http://localhost:1"), ("::1", "http://[::1]:1"), ("api", "http://api:1")],
)
def test_the_url_of_an_address_reaches_it_from_this_machine(host: str, url: str) -> None:
    assert Address(host, 1).url == url


@needs_ipv6
def test_no_host_means_every_interface_of_ipv6_which_accepts_ipv4_too() -> None:
    assert Address("", 8080).to_bind() == Address("::", 8080)


def test_no_host_means_every_interface_of_ipv4_without_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_ipv6(*_: object) -> socket.socket:
        raise OSError

    monkeypatch.setattr(socket, "socket", no_ipv6)
    assert Address("", 8080).to_bind() == Address("0.0.0.0", 8080)
