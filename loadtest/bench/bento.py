"""For comparison: Bento, which moves events from HTTP to Kafka with only a file of settings. Built here."""

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from loadtest.bench.sides import Broker, Server, process
from ops.local import ports

VERSION = "v1.20.0"
_BUILD_SECONDS = 1_200
_SETTINGS = Path(__file__).parent / "bento.yaml"
_MODULE = f"""module bench

go 1.26

require github.com/warpstreamlabs/bento {VERSION}
"""
# Only the used components of Bento, since all of them take an hour to build.
_PROGRAM = """package main

import (
	"context"

	_ "github.com/warpstreamlabs/bento/public/components/io"
	_ "github.com/warpstreamlabs/bento/public/components/kafka"
	_ "github.com/warpstreamlabs/bento/public/components/pure"
	"github.com/warpstreamlabs/bento/public/service"
)

func main() { service.RunCLI(context.Background()) }
"""


@contextlib.contextmanager
def bento(broker: Broker) -> Iterator[Server]:
    """A ready Bento. The first call builds it in some minutes. Raises OSError or SubprocessError if that fails."""
    port = ports.free_port()
    environ = broker.environ | {"BENTO_ADDRESS": f"127.0.0.1:{port}"}
    with process([str(_built()), "--config", str(_SETTINGS)], environ) as running:
        server = Server(running, port, keeps=True)
        server.wait_until_ready("/ready")
        yield server


def _built() -> Path:
    folder = Path("var", "bench", f"bento-{VERSION}").absolute()
    program = folder / "bento"
    if program.exists():
        return program
    go = shutil.which("go")
    if go is None:
        raise FileNotFoundError("building Bento needs Go")
    print(f"Building Bento {VERSION} (once, some minutes) ...", file=sys.stderr)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "go.mod").write_text(_MODULE)
    (folder / "main.go").write_text(_PROGRAM)
    build = subprocess.run(  # noqa: S603, nothing here comes from outside
        [go, "build", "-mod=mod", "-o", program.name, "."],
        cwd=folder,
        env=os.environ | {"CGO_ENABLED": "0"},
        capture_output=True,
        text=True,
        timeout=_BUILD_SECONDS,
        check=False,
    )
    if build.returncode:
        raise OSError(f"it could not be built: {build.stderr.strip().rpartition(chr(10))[2]}")
    return program
