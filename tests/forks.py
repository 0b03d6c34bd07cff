"""What a forked child finds: it runs one function and ends, whatever that does, and never goes on with the test."""

import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable

__all__ = ["fork", "succeeded", "succeeds_in_child"]

PATIENCE = 60
"""Seconds; a child that hangs is ended by then."""


def fork(work: Callable[[], object]) -> int:
    """Forks a child that does some work, and gives its pid; what it raises is printed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # from Python 3.12 on, of threads that a test before left
        pid = os.fork()
    if pid:
        return pid
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(PATIENCE)
        os._exit(not work())
    except BaseException:  # noqa: BLE001 - the test must not run on in two processes
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(3)


def succeeded(pid: int) -> bool:
    """Waits for a child, and tells whether its work gave something true."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def succeeds_in_child(work: Callable[[], object]) -> bool:
    """Does some work in a forked child, and tells whether that gave something true."""
    return succeeded(fork(work))
