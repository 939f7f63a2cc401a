"""A server that speaks MongoDB's wire protocol and stores nothing, to measure the cost of a client alone.

`python -m loadtest.bench.mongo_stub PORT [--once]`. It answers the consumer's commands as a primary without events:
each upsert inserts a document. With `--once`, it remembers a hash of each upsert's filter, and the second upsert with
the same filter matches. `count` returns the number of inserts.
"""

import argparse
import itertools
import socketserver
import struct
import threading
from collections.abc import Iterator
from functools import lru_cache
from hashlib import blake2b
from typing import Any

import bson

_HEADER = struct.Struct("<iiii")  # length, request id, the request answered, operation
_OP_REPLY, _OP_QUERY, _OP_MSG = 1, 2004, 2013
_MORE_TO_COME = 1 << 1
_BODY = 0


class Server(socketserver.ThreadingTCPServer):
    """Listens on the loopback interface. `inserts` counts over all connections."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, port: int, *, once: bool = False) -> None:
        super().__init__(("127.0.0.1", port), _Connection)
        self.address = f"127.0.0.1:{self.server_address[1]}"
        self.inserts = 0
        self._once = once
        self._known: set[bytes] = set()
        self._lock = threading.Lock()

    def upsert(self, updates: list[bytes]) -> bytes:
        """The answer to the update statements of a command, each in BSON."""
        with self._lock:
            inserted = [self._is_new(update) for update in updates] if self._once else [True] * len(updates)
            self.inserts += sum(inserted)
        return _upserted(tuple(inserted))

    def _is_new(self, update: bytes) -> bool:
        """Remember the filter: pymongo writes it as the first element, a type, `q`, NUL and a document."""
        (size,) = struct.unpack_from("<i", update, 7)
        key = blake2b(update[7 : 7 + size], digest_size=16).digest()
        count = len(self._known)
        self._known.add(key)
        return len(self._known) > count


class _Connection(socketserver.StreamRequestHandler):
    server: Server
    rbufsize = 1 << 20

    def setup(self) -> None:
        super().setup()
        self._request_ids = itertools.count(1)

    def handle(self) -> None:
        while len(header := self.rfile.read(_HEADER.size)) == _HEADER.size:
            length, request_id, _, operation = _HEADER.unpack(header)
            message = self.rfile.read(length - _HEADER.size)
            if operation == _OP_QUERY:
                # The first query of a connection: flags, cstring, skip, limit, then the document.
                command = bson.decode(message[message.index(b"\0", 4) + 9 :])
                head = struct.pack("<iqii", 0, 0, 0, 1)
                self._send(request_id, _OP_REPLY, head + bson.encode(self._answer(command)))
            else:
                answer = self._answer_message(message)
                if answer:
                    self._send(request_id, _OP_MSG, struct.pack("<iB", 0, _BODY) + answer)

    def _answer_message(self, message: bytes) -> bytes:
        """The answer to a message; empty if the client wants none."""
        (flags,) = struct.unpack_from("<i", message)
        command: dict[str, Any] = {}
        updates: list[bytes] = []
        place = 4
        while place < len(message):
            kind = message[place]
            (size,) = struct.unpack_from("<i", message, place + 1)
            if kind == _BODY:
                command = bson.decode(message[place + 1 : place + 1 + size])
            else:
                updates = list(_documents(message, message.index(b"\0", place + 5) + 1, place + 1 + size))
            place += 1 + size
        if "update" in command:
            answer = self.server.upsert(updates or [bson.encode(update) for update in command["updates"]])
        else:
            answer = bson.encode(self._answer(command))
        return b"" if flags & _MORE_TO_COME else answer

    def _answer(self, command: dict[str, Any]) -> dict[str, Any]:
        name = next(iter(command))
        if name.lower() in ("hello", "ismaster"):
            return self._hello()
        if name in ("listIndexes", "find"):
            return {"cursor": {"id": bson.Int64(0), "ns": f"stub.{command[name]}", "firstBatch": []}, "ok": 1.0}
        if name == "count":
            return {"n": self.server.inserts, "ok": 1.0}
        return {"ok": 1.0}

    def _hello(self) -> dict[str, Any]:
        """The greeting of a primary, so the driver behaves as in production."""
        primary = self.server.address
        return {
            "helloOk": True,
            "isWritablePrimary": True,
            "ismaster": True,
            "setName": "stub",
            "setVersion": 1,
            "hosts": [primary],
            "primary": primary,
            "me": primary,
            "maxBsonObjectSize": 16 * 1024**2,
            "maxMessageSizeBytes": 48_000_000,
            "maxWriteBatchSize": 100_000,
            "logicalSessionTimeoutMinutes": 30,
            "minWireVersion": 0,
            "maxWireVersion": 25,
            "ok": 1.0,
        }

    def _send(self, request_id: int, operation: int, message: bytes) -> None:
        header = _HEADER.pack(_HEADER.size + len(message), next(self._request_ids), request_id, operation)
        self.wfile.write(header + message)


def _documents(message: bytes, place: int, end: int) -> Iterator[bytes]:
    while place < end:
        size = int.from_bytes(message[place : place + 4], "little")
        yield message[place : place + size]
        place += size


@lru_cache(1000)
def _upserted(inserted: tuple[bool, ...]) -> bytes:
    upserted = [{"index": index, "_id": bson.ObjectId()} for index, new in enumerate(inserted) if new]
    return bson.encode({"n": len(inserted), "nModified": 0, "upserted": upserted, "ok": 1.0})


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m loadtest.bench.mongo_stub", description=__doc__.splitlines()[0])
    parser.add_argument("port", type=int)
    parser.add_argument("--once", action="store_true", help="match the second upsert with the same filter")
    arguments = parser.parse_args()
    Server(arguments.port, once=arguments.once).serve_forever()


if __name__ == "__main__":
    main()
