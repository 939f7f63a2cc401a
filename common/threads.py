"""Threads that report their own death; and the stacks of all threads, for the log."""

import logging
import sys
import threading
import traceback
from collections.abc import Callable

logger = logging.getLogger(__name__)

_MOST_FRAMES = 40


def start_thread(name: str, run: Callable[[], None], on_death: Callable[[], None]) -> threading.Thread:
    """Run `run` in a thread that ends with the process. If it raises, log that and call `on_death`, in that thread."""

    def live() -> None:
        try:
            run()
        except BaseException:
            # Not raised again: the thread ends anyway, and Python would print the error outside the log.
            logger.critical("the thread %s died", name, exc_info=True, extra={"stacks": all_stacks()})
            on_death()

    thread = threading.Thread(target=live, name=name, daemon=True)
    thread.start()
    return thread


def all_stacks() -> str:
    """The stack of each thread of the process: lines of code, innermost last, no values. Does not block.

    Not from `faulthandler`, which writes outside the log and does not know the threads' names.
    """
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    stacks = [
        f"thread {names.get(ident, ident)}:\n{''.join(traceback.format_stack(frame)[-_MOST_FRAMES:])}"
        for ident, frame in sys._current_frames().items()  # noqa: SLF001, it is documented
    ]
    return "\n".join(stacks)
