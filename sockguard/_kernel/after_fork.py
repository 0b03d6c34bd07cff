"""When may a thread that was stopped for a fork be started again? In Python 3.13 not yet in the hook for that.

os.fork() counts the threads of the process and warns if there are several. From CPython
3.13.0 on it does so only after the functions of `os.register_at_fork(after_in_parent=...)`
have run (python/cpython#137109; fixed in 3.14.1, and in 3.13 by GH-141639): whoever starts
its thread again in such a function has the program warned for nothing. So there we have to
wait until os.fork() is over. Python calls a function at that moment if it was asked to by
`Py_AddPendingCall`, and if that was done by a function in C, for after one in Python
the moment would come at once.
"""

import functools
import os
import sys
from collections.abc import Callable

from sockguard._kernel.natives import native

__all__ = ["COUNTS_LATE", "caller_soon", "is_main_thread"]

COUNTS_LATE = (3, 13) <= sys.version_info < (3, 14, 1)
"""Whether os.fork() may count the threads after the hooks."""


def is_main_thread() -> bool:
    """Tells whether this is the thread that pending calls are made by."""
    return bool(native("_thread", "get_native_id")() == os.getpid())


def caller_soon(function: Callable[[], object]) -> Callable[[], object]:
    """Makes a function in C that has `function` called as soon as the main thread runs Python code again.

    Args:
        function: Must not raise; it can also be called much later, if the main thread is busy in C.

    Raises:
        ImportError: This Python has no ctypes.
    """
    import ctypes  # noqa: PLC0415 - 8 ms that only a process that forks should pay

    def call(_: int | None) -> int:
        function()
        return 0

    callback = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p)(call)
    return functools.partial(ctypes.PyDLL(None).Py_AddPendingCall, callback, None)
