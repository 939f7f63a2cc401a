"""Runs the Procfile's processes under honcho, in the foreground, until one exits or the user stops them."""

import math
import multiprocessing
import os
import signal
import sys
import threading
import time
from itertools import cycle
from pathlib import Path
from typing import Any

from honcho import colour
from honcho.compat import ProcessManager
from honcho.environ import parse_procfile
from honcho.manager import Manager
from honcho.printer import Message, Printer
from honcho.process import Process

# In the order of the Procfile, without the red of errors; `ready` is green.
COLOURS = [colour.cyan, colour.yellow, colour.blue, colour.magenta, colour.intense_cyan, colour.green]
PATIENCE = 35.0  # seconds beyond honcho's 5: the API and the consumer stop within 30 each, a server 2 after them


class Terminal:
    """Standard output for honcho, which would leave all processes running if a write failed."""

    def write(self, text: str) -> None:
        try:
            sys.stdout.write(text)
            sys.stdout.flush()
        except OSError:  # the window was closed, or the `tee` that follows us has ended: the rest goes nowhere
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    def flush(self) -> None:
        """Nothing is held back."""

    def isatty(self) -> bool:
        return sys.stdout.isatty()


class Lines(Printer):  # type: ignore[misc]  # honcho has no types
    """The lines of all processes, with their names, except for the indented lines of `ready`, which are for copying."""

    def write(self, message: Message) -> None:
        self.prefix = not (message.name == "ready" and message.data.startswith(b" "))
        super().write(message)


class Part(Process):  # type: ignore[misc]
    """One process of the Procfile. honcho watches each from a helper process, which runs this."""

    def run(self, events: Any = None, ignore_signals: bool = False) -> None:
        threading.Thread(target=self._stop_after, args=(os.getppid(),), daemon=True).start()
        super().run(events, ignore_signals)

    def _stop_after(self, parent: int) -> None:
        """Stops the process as honcho would when the parent, `make run`, has been killed."""
        while os.getppid() == parent:
            time.sleep(0.5)
        self._events.cancel_join_thread()  # they have no reader any more: the helper must not wait for one when it ends
        ProcessManager().terminate(self._child.pid)


class Stack(Manager):  # type: ignore[misc]
    """All processes of the Procfile. Once one has ended, the others have PATIENCE, unless they are asked twice."""

    def __init__(self) -> None:
        super().__init__(Lines(Terminal()))
        self._colours = cycle(COLOURS)
        self._process_ctor = Part
        self._parent = os.getppid()
        self._asked = False
        self.first_ended: tuple[str, int] | None = None
        self._kill_at: float | None = None

    def terminate(self) -> None:
        """Called by a signal, and by honcho when a process has ended or been asked to."""
        if not self._asked:
            ended = ((name, part["returncode"]) for name, part in self._processes.items() if "returncode" in part)
            self.first_ended = next(ended, None)
        self._asked = True
        if self._kill_at is not None:
            self._kill_at = 0.0
        if self._all_started():  # else honcho does not know yet whom to tell
            super().terminate()

    def _any_stopped(self) -> bool:
        orphaned = os.getppid() != self._parent  # `make` was killed, and no Ctrl-C would reach us any more
        return self._asked or orphaned or super()._any_stopped()

    def kill(self) -> None:
        """honcho calls this over and over from 5 s after the first process has ended."""
        if self._kill_at is None:
            waiting = [name for name, process in self._processes.items() if "returncode" not in process]
            self._system_print(f"waiting for {', '.join(waiting)}, {PATIENCE:g} s at most; Ctrl-C ends them at once\n")
            self._kill_at = time.monotonic() + PATIENCE
        elif time.monotonic() > self._kill_at:
            self._kill_at = math.inf
            super().kill()


def run(procfile: Path) -> tuple[str, int] | None:
    """Blocks until all processes have ended, at most some 40 s after the first.

    Returns the name and the status of the first that ended, or None if that was asked for.

    Ctrl-C, SIGTERM and SIGHUP ask for it. honcho's own command knows nothing of SIGHUP, so that a closed window would
    leave everything running; nor of the death of itself or of its parent, which here stops them too.
    """
    multiprocessing.set_start_method("fork")  # so that honcho's helper processes share the handler of SIGHUP
    signal.signal(signal.SIGHUP, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    stack = Stack()
    for name, command in parse_procfile(procfile.read_text()).processes.items():
        stack.add_process(name, command)
    stack.loop()
    return stack.first_ended
