"""Runs the drivers."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Self

from tests.sdks.installed import jars, node_modules

HERE = Path(__file__).parent
Told = dict[str, dict[int, str]]
"""For each client, the errors that its callback received, by call."""


def _python(driver: str, *arguments: str) -> tuple[list[str], dict[str, str]]:
    return [sys.executable, str(HERE / "python" / driver), *arguments], {}


def _node(sdk: str) -> tuple[list[str], dict[str, str]]:
    return ["node", str(HERE / "node" / "trackers.js"), sdk], {"NODE_PATH": str(node_modules("node"))}


def _java() -> tuple[list[str], dict[str, str]]:
    program = str(HERE / "java" / "Trackers.java")
    return ["java", "-XX:TieredStopAtLevel=1", "-Xmx128m", "-cp", f"{jars('java')}/*", program], {}


PROGRAMS: dict[str, Callable[[], tuple[list[str], dict[str, str]]]] = {
    "segment_python": lambda: _python("trackers.py", "segment"),
    "rudderstack_python": lambda: _python("trackers.py", "rudderstack"),
    "segment_node": lambda: _node("segment"),
    "rudderstack_node": lambda: _node("rudderstack"),
    "segment_java": _java,
    "cloudevents_python": lambda: _python("cloudevents_over_http.py"),
}
"""The command of each driver, and its additional variables. The function installs a missing SDK."""


class Driver:
    """A running driver: open clients and call them, then `finish`."""

    def __init__(self, sdk: str, folder: Path) -> None:
        command, environ = PROGRAMS[sdk]()
        self._log = folder / f"{sdk}.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command, env=os.environ | environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
            )

    def open(self, client: str, url: str, key: str, options: Mapping[str, Any]) -> None:
        self._order({"client": client, "url": url, "key": key, "options": dict(options)})

    def call(self, client: str, calls: Iterable[dict[str, Any]]) -> None:
        for call in calls:
            self._order({"client": client, **call})

    def finish(self, timeout: float = 240.0) -> Told:
        """Wait until all calls are sent or given up. Fails if the driver fails."""
        answer, _ = self._process.communicate(timeout=timeout)
        assert self._process.returncode == 0, self._log.read_text()
        return {
            client: {int(number): text for number, text in errors.items()}
            for client, errors in json.loads(answer).items()
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        with self._process as process:
            process.kill()

    def _order(self, order: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
