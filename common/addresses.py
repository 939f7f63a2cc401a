"""`host:port` settings: validated once; with their text, bind address and URL."""

import ipaddress
import re
import socket
from dataclasses import dataclass

_ADDRESS = re.compile(r"(?:\[(?P<ipv6>[0-9A-Fa-f.]*:[0-9A-Fa-f:.]*)\]|(?P<host>[^\[\]:]*)):(?P<port>[0-9]{1,5})")
# Compose uses underscores in host names.
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?")
_LIKE_AN_IP = re.compile(r".*:.*|(?:.*\.)?[0-9]+\.?", re.DOTALL)
_LONGEST_NAME = 253


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server listens or answers. `host` has no brackets; an empty one means every interface."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{_in_brackets(self.host)}:{self.port}"

    @property
    def url(self) -> str:
        """The URL under which a program on this machine reaches the server."""
        host = "localhost" if self.host in ("", "0.0.0.0", "::") else self.host
        return f"http://{_in_brackets(host)}:{self.port}"

    @property
    def family(self) -> socket.AddressFamily:
        """The kind of socket that listens here. A name is looked up as IPv4."""
        return socket.AF_INET6 if ":" in self.host else socket.AF_INET

    @property
    def is_loopback(self) -> bool:
        """Whether only programs on this machine can reach it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def to_bind(self) -> "Address":
        """The same, with an address in place of an empty host: `::`, or 0.0.0.0 if `::` would not accept IPv4."""
        if self.host:
            return self
        return Address("::" if _ipv6_takes_ipv4() else "0.0.0.0", self.port)


def parse_address(text: str) -> Address | None:
    """The address that `host:port`, `[ipv6]:port` or `:port` names; None for anything else."""
    match = _ADDRESS.fullmatch(text)
    if match is None or not 1 <= int(match["port"]) <= 65_535:
        return None
    host = match["ipv6"] or match["host"]
    return Address(host, int(match["port"])) if host == "" or is_host(host) else None


def is_host(text: str) -> bool:
    """Whether it is an IP address (IPv6 without brackets) or a valid host name: Python's resolver raises for `a..b`."""
    if _LIKE_AN_IP.fullmatch(text):
        try:
            ipaddress.ip_address(text)
        except ValueError:
            return False
        return True
    return len(text) <= _LONGEST_NAME and _NAME.fullmatch(text) is not None


def _in_brackets(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _ipv6_takes_ipv4() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            return not probe.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
    except OSError:
        return False
