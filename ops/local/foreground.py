"""Runs the Procfile's processes under honcho, in the foreground, until one ends or somebody wants them to stop."""

import multiprocessing
import os
import signal
import sys
from pathlib import Path

from honcho.environ import parse_procfile
from honcho.manager import Manager
from honcho.printer import Printer


class Terminal:
    """Standard output for honcho, which would leave all processes behind if it were to fail on a line."""

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


def run(procfile: Path) -> bool:
    """Blocks until all processes have ended, at most some 5 s after the first. Returns whether that was asked for.

    Ctrl-C, SIGTERM and SIGHUP ask for it. honcho's own command knows nothing of SIGHUP, so that a closed window would
    leave everything running.
    """
    multiprocessing.set_start_method("fork")  # so that honcho's helper processes share the handler of SIGHUP
    signal.signal(signal.SIGHUP, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    manager = Manager(Printer(Terminal()))
    for name, command in parse_procfile(procfile.read_text()).processes.items():
        manager.add_process(name, command)
    manager.loop()
    return manager.returncode in (128 + signal.SIGINT, 128 + signal.SIGTERM)
