"""The errors of the load tools about invalid arguments, settings and ports."""

import socket
import sys
from argparse import ArgumentTypeError

import pytest

from common.errors import PulseError
from loadtest import load_test_ui, seed
from loadtest.client import base_url, whole_number
from ops.local.ports import free_port


@pytest.mark.parametrize("customers", ["-3", "abc", "1.5"])
def test_an_invalid_number_of_customers_is_refused(
    customers: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["seed", "--customers", customers])
    with pytest.raises(SystemExit, match="2"):
        seed.main()
    assert f"--customers: {customers} is not a whole number from 0\n" in capsys.readouterr().err


@pytest.mark.parametrize("customers", ["١٢", "1_0"])
def test_only_ascii_digits_are_a_number(customers: str) -> None:
    with pytest.raises(ArgumentTypeError, match="is not a whole number"):
        whole_number(0)(customers)


@pytest.mark.parametrize("url", ["events.example", "ftp://events.example", "https://", "http:///path"])
def test_an_invalid_url_is_refused_with_an_example(url: str) -> None:
    with pytest.raises(ArgumentTypeError, match=r"^give a URL such as https://"):
        base_url(url)


@pytest.mark.parametrize("url", ["https://me:secret@events.example", "https://events.example/?key=secret"])
def test_a_url_with_a_secret_is_refused_and_not_printed(url: str) -> None:
    with pytest.raises(ArgumentTypeError, match=r"^(?!.*secret).*without user, password or key$"):
        base_url(url)


def test_a_slash_at_the_end_of_a_url_is_removed() -> None:
    assert base_url("https://events.example/pulse/") == "https://events.example/pulse"


def test_locusts_page_is_not_announced_on_a_port_in_use(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setattr(load_test_ui, "PORT", port)
        monkeypatch.setattr(sys, "argv", ["load_test_ui"])
        with pytest.raises(PulseError, match=f"Port {port} is taken"):
            load_test_ui.main()
    assert capsys.readouterr().out == ""


def test_locusts_page_is_not_announced_without_an_api(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(load_test_ui, "PORT", free_port())
    monkeypatch.setattr(sys, "argv", ["load_test_ui", "--url", f"http://127.0.0.1:{free_port()}"])
    with pytest.raises(PulseError, match="is not reachable"):
        load_test_ui.main()
    assert capsys.readouterr().out == ""
