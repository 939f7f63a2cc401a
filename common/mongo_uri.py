"""Validates a MongoDB URI without quoting any part of it: pymongo's messages may quote half of a password.

Only processes that use MongoDB have pymongo.
"""

import re
import warnings
from collections.abc import Callable
from functools import partial

from pymongo import MongoClient
from pymongo.errors import PyMongoError
from pymongo.uri_parser import parse_userinfo, split_hosts, split_options

from common.addresses import is_host

_URI = re.compile(r"mongodb(?P<srv>\+srv)?://(?P<authority>[^/?\s]+)(?P<rest>[^?\s]*(?:\?(?P<options>\S*))?)")
_EXAMPLE = "a URI such as mongodb://host:27017 or mongodb://user:password@host:27017/?w=majority"
_ENCODED = "@ : / ? % in user name and password percent-encoded (%40 %3A %2F %3F %25)"


def fault(uri: str) -> str | None:
    """The allowed form if the URI is invalid, otherwise None. Does not query DNS; reads the files that its options
    name.
    """
    match = _URI.fullmatch(uri)
    if match is None:
        return _EXAMPLE
    login, at, hosts = match["authority"].rpartition("@")
    checks: dict[str, Callable[[], object]] = {
        f"a URI with {_ENCODED}": lambda: _check_login(login if at else None, match["rest"]),
        f"host or host:port, several separated by commas (mongodb+srv: one, without a port), and {_ENCODED}": lambda: (
            _check_hosts(hosts, srv=match["srv"] is not None)
        ),
    }
    for number, option in enumerate(re.split("[&;]", match["options"] or ""), 1):
        if option:
            allowed = "known options with allowed values, and files that can be read, after the ?"
            checks[f"{allowed}: number {number} is none"] = partial(split_options, option)
    checks["a URI whose database, login and options (each once) fit together"] = lambda: MongoClient[dict[str, object]](
        uri, connect=False
    ).close()
    return next((allowed for allowed, check in checks.items() if not _works(check)), None)


def _check_login(login: str | None, rest: str) -> None:
    if "@" in rest:
        # pymongo would read another host, and the rest of the password as its database or options.
        raise ValueError
    if login is not None:
        parse_userinfo(login)


def _check_hosts(hosts: str, *, srv: bool) -> None:
    nodes = split_hosts(hosts, default_port=None)
    if not hosts.isascii() or not all(host.endswith(".sock") or is_host(host) for host, _ in nodes):
        raise ValueError
    if srv and [port for _, port in nodes] != [None]:
        raise ValueError


def _works(check: Callable[[], object]) -> bool:
    """Whether pymongo accepts it without an error, and without a warning that it ignores a part of it."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            check()
        except (PyMongoError, ValueError, TypeError, OSError, UserWarning):
            return False
    return True
