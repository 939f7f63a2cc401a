"""Python's garbage collection in a process that serves for a long time."""

import gc


def collect_rarely() -> None:
    """Never scan again what is loaded now, and scan new objects less often. Call it once all parts exist.

    The modules and parts stay: scanning them cost the consumer a sixth of its CPU time (docs/decisions, 37). The
    objects of an event live until it is answered or stored, so an earlier scan of them frees nothing. Blocks for some
    milliseconds.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
