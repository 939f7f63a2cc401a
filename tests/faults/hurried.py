"""`python -m tests.faults.hurried MODULE …`: the consumer, or the tool that forgets, with shorter waits."""

import runpy
import sys

from consumer import forgotten

forgotten.LATE_SECONDS = 2.0
forgotten.GRACE_SECONDS = 5.0

sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
