"""Threads of ours: each reports its own death; and what all threads are doing, for the log."""

import logging
import sys
import threading
import traceback
from collections.abc import Callable

logger = logging.getLogger(__name__)

_MOST_FRAMES = 40


def start_thread(name: str, run: Callable[[], None], on_death: Callable[[], None]) -> threading.Thread:
    """Run `run` in a thread that ends with the process. If it raises, that is logged, and `on_death` called in it."""

    def live() -> None:
        try:
            run()
        except BaseException:
            # Not raised again: the thread ends in any case, and Python would print it past the log.
            logger.critical("the thread %s died", name, exc_info=True, extra={"stacks": all_stacks()})
            on_death()

    thread = threading.Thread(target=live, name=name, daemon=True)
    thread.start()
    return thread


def all_stacks() -> str:
    """What each thread of the process is doing: lines of code, innermost last, no values. Does not block.

    Not from `faulthandler`, which writes past the log and does not know the threads' names.
    """
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    stacks = [
        f"thread {names.get(ident, ident)}:\n{''.join(traceback.format_stack(frame)[-_MOST_FRAMES:])}"
        for ident, frame in sys._current_frames().items()  # noqa: SLF001, it is documented
    ]
    return "\n".join(stacks)
