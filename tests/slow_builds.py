"""A database that takes as long to build an index as a test wants: a proxy before it holds the command up."""

import contextlib
import socket
import socketserver
import struct
import threading
from collections.abc import Iterator
from typing import Any

import bson

from tests.servers import MongoServer

_HEADER = struct.Struct("<iiii")  # length, request id, the request answered, operation
_OP_MSG = 2013
_SECTION = 5  # after flags and kind


class SlowBuilds(socketserver.ThreadingTCPServer):
    """Passes on all that clients send to a database, but for builds of indexes whose names are in `held`."""

    daemon_threads = True

    def __init__(self, database: MongoServer) -> None:
        super().__init__(("127.0.0.1", 0), _Connection)
        self.database = database
        self.uri = f"mongodb://127.0.0.1:{self.server_address[1]}/?directConnection=true"
        self.held: set[str] = set()
        self.released = threading.Event()
        self.builds: list[dict[str, Any]] = []
        """The commands that came, in their order."""

    def asked_for(self, index: str) -> int:
        """How often a client wanted this index to be built."""
        return sum(command["indexes"][0]["name"] == index for command in self.builds)


class _Connection(socketserver.StreamRequestHandler):
    server: SlowBuilds

    def handle(self) -> None:
        with socket.create_connection(("127.0.0.1", self.server.database.port)) as database:
            threading.Thread(target=self._answer, args=(database,), daemon=True).start()
            while len(header := self.rfile.read(_HEADER.size)) == _HEADER.size:
                length, _, _, operation = _HEADER.unpack(header)
                message = self.rfile.read(length - _HEADER.size)
                if operation == _OP_MSG:
                    self._hold(message)
                database.sendall(header + message)

    def _hold(self, message: bytes) -> None:
        (size,) = struct.unpack_from("<i", message, _SECTION)
        command = bson.decode(message[_SECTION : _SECTION + size])
        if "createIndexes" in command:
            self.server.builds.append(command)
            if command["indexes"][0]["name"] in self.server.held:
                self.server.released.wait(60)

    def _answer(self, database: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := database.recv(1 << 16):
                self.wfile.write(data)


@contextlib.contextmanager
def slow_builds(database: MongoServer) -> Iterator[SlowBuilds]:
    """One that listens until the end of the block."""
    with SlowBuilds(database) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.released.set()
        server.shutdown()
