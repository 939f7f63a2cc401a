"""MONGO_URI: valid and invalid values; no error or log shows a part of it."""

import re
import socket

import pytest

from common.errors import SettingsError
from common.settings import load_consumer_settings

ENCODE = r"@ : / \? % in user name and password percent-encoded \(%40 %3A %2F %3F %25\)"


@pytest.mark.parametrize(
    "uri",
    [
        "mongodb://localhost:27017",
        "mongodb://mongo_1,mongo_2:27018/?replicaSet=rs0",
        "mongodb://user:p%40ss%2Fword@host/admin?w=majority&tls=true",
        "mongodb://[::1]:27017",
        "mongodb://%2Ftmp%2Fmongodb-27017.sock",
    ],
)
def test_a_uri_that_pymongo_reads_as_intended_is_accepted(monkeypatch: pytest.MonkeyPatch, uri: str) -> None:
    monkeypatch.setenv("MONGO_URI", uri)
    assert load_consumer_settings().mongo.uri == uri


def test_mongodb_srv_is_accepted_without_a_dns_query(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_dns(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr("pymongo.synchronous.srv_resolver._resolve", no_dns)
    monkeypatch.setattr(socket, "getaddrinfo", no_dns)
    monkeypatch.setenv("MONGO_URI", "mongodb+srv://user:secret@cluster0.example.com/?w=majority")
    load_consumer_settings()


@pytest.mark.parametrize(
    ("uri", "allowed"),
    [
        ("mongo://user:s3cret@host", "a URI such as mongodb://host:27017 or "),
        ("mongodb://user:s3cret@ho st", "a URI such as mongodb://host:27017 or "),
        ("mongodb://", "a URI such as mongodb://host:27017 or "),
        ("mongodb://user:s3cr/et@host:27017", f"a URI with {ENCODE}$"),
        ("mongodb://user:p@s3cret/word@host", f"a URI with {ENCODE}$"),
        ("mongodb://user:1?appName=s3cret@host", f"a URI with {ENCODE}$"),
        ("mongodb://user:p@s3cret@host", f"a URI with {ENCODE}$"),
        ("mongodb://user:p:s3cret@host", f"a URI with {ENCODE}$"),
        ("mongodb://user:p%s3cret@host", f"a URI with {ENCODE}$"),
        ("mongodb://:s3cret@host", f"a URI with {ENCODE}$"),
        ("mongodb://user:s3cret", f"host or host:port, .* and {ENCODE}$"),
        ("mongodb://user:s3cret@", f"host or host:port, .* and {ENCODE}$"),
        ("mongodb://user:s3cret@host:99999", "host or host:port, "),
        ("mongodb://user:s3cret@a..b", "host or host:port, "),
        ("mongodb://user:s3cret@a,,b", "host or host:port, "),
        ("mongodb+srv://user:s3cret@host.example.com:27017", "host or host:port, .*one, without a port"),
        ("mongodb://user:s3cret@host/?w=1&s3cret=1", "known options .* number 2 is none$"),
        ("mongodb://user:s3cret@host/?tls=s3cret", "known options .* number 1 is none$"),
        ("mongodb://user:s3cret@host/?tls=true&tlsCAFile=/no/s3cret", "known options .* number 2 is none$"),
        ("mongodb://user:s3cret@host/?w=1&w=2", "a URI whose database, login and options "),
        ("mongodb://user:s3cret@host/a$s3cret", "a URI whose database, login and options "),
    ],
)
def test_a_uri_that_pymongo_rejects_or_misreads_is_refused_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, uri: str, allowed: str
) -> None:
    monkeypatch.setenv("MONGO_URI", uri)
    with pytest.raises(SettingsError, match=rf"^MONGO_URI=\(not shown\) is not allowed: give {allowed}") as raised:
        load_consumer_settings()
    assert not re.search("s3cr|et@", str(raised.value))
