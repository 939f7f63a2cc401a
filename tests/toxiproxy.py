"""Toxiproxy on this machine, built once with Go: proxies that delay, cut and swallow bytes."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from ops.local import ports
from tests import ROOT
from tests.golang import go
from tests.servers import Process

_VERSION = "v2.12.0"
_MODULE = f"github.com/Shopify/toxiproxy/v2/cmd/server@{_VERSION}"
_BUILD_SECONDS = 300.0


class Proxy:
    """Passes on the connections to `port`."""

    def __init__(self, api: str, name: str, upstream: int) -> None:
        """`upstream`: the port of a server on this machine, which may start later."""
        self.port = ports.free_port()
        self._toxics = f"{api}/proxies/{name}/toxics"
        made = {"name": name, "listen": f"127.0.0.1:{self.port}", "upstream": f"127.0.0.1:{upstream}"}
        requests.post(f"{api}/proxies", json=made, timeout=10).raise_for_status()

    @contextlib.contextmanager
    def toxic(self, kind: str, *streams: str, **attributes: int) -> Iterator[None]:
        """Add a toxic to these streams, `upstream` or `downstream` (to the client), for all connections.

        Toxiproxy's documentation has the kinds and their attributes. Some kinds close the connections at their end.
        """
        with contextlib.ExitStack() as stack:
            for stream in streams:
                made = {"name": stream, "type": kind, "stream": stream, "attributes": attributes}
                requests.post(self._toxics, json=made, timeout=10).raise_for_status()
                stack.callback(self._remove, stream)
            yield

    def _remove(self, name: str) -> None:
        requests.delete(f"{self._toxics}/{name}", timeout=10).raise_for_status()


class Toxiproxy(Process):
    """A server of proxies."""

    def __init__(self, binary: Path, folder: Path) -> None:
        self._port = ports.free_port()
        command = [str(binary), "-host", "127.0.0.1", "-port", str(self._port)]
        super().__init__(command, folder / "toxiproxy.log")

    def start(self) -> None:
        super().start()
        ports.wait_until_answers(self._port, 30)

    def proxy(self, name: str, upstream: int) -> Proxy:
        """A new proxy to this port. The name appears in the log."""
        return Proxy(f"http://127.0.0.1:{self._port}", name, upstream)


def _binary() -> Path:
    """The server's program. The first call builds it, in about 20 s, at most 300.

    If the build fails, skips the test, or fails it if CI=true.
    """
    binary = ROOT / "var" / "toxiproxy" / _VERSION
    if binary.is_file():
        return binary
    binary.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=binary.parent, prefix="partial-") as partial:
        go("install", _MODULE, what="Toxiproxy", timeout=_BUILD_SECONDS, GOBIN=partial)
        Path(partial, "server").replace(binary)
    return binary


@pytest.fixture(scope="session")
def toxiproxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Toxiproxy]:
    """A server without proxies."""
    server = Toxiproxy(_binary(), tmp_path_factory.mktemp("toxiproxy"))
    server.start()
    yield server
    server.kill()
