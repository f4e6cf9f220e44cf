"""Processes that tests start and kill."""

import os
import sys
import traceback
from collections.abc import Callable


def start(work: Callable[[], object]) -> int:
    """Do `work` in a process of its own, a copy of this one, in a group of its own; gives its number."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setpgid(0, 0)
            work()
            code = 0
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 1
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return child


def end_of(child: int) -> int:
    """The exit code of a started process once it has ended, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def in_a_child(work: Callable[[], object]) -> int:
    """Do `work` in a process of its own; returns its exit code."""
    return end_of(start(work))
