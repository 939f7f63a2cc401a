"""A database whose builds of indexes take as long as a test wants: a proxy delays the commands."""

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
    """Passes on all commands to a database, but holds builds of indexes whose names are in `held`."""

    daemon_threads = True

    def __init__(self, database: MongoServer) -> None:
        super().__init__(("127.0.0.1", 0), _Connection)
        self.database = database
        self.uri = f"mongodb://127.0.0.1:{self.server_address[1]}/?directConnection=true"
        self.held: set[str] = set()
        self.released = threading.Event()
        self.builds: list[dict[str, Any]] = []
        """The received commands to build indexes, in order."""

    def asked_for(self, index: str) -> int:
        """The number of commands to build this index."""
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
    """A proxy that listens until the end of the block."""
    with SlowBuilds(database) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.released.set()
        server.shutdown()
