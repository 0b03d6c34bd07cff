"""The wiring behind the public functions: fetch facts, decide, tell."""

import os

from sockguard._core.leaks import LEAK_AFTER, Leak
from sockguard._core.leaks import find_leaks as _find_leaks
from sockguard._engine.current import current_guard
from sockguard._kernel.linux import look_at_self
from sockguard.errors import UsageError

__all__ = ["find_leaks"]


def find_leaks(*, min_age: float = LEAK_AFTER) -> list[Leak]:
    """Finds the leaked TCP connections of this process, the oldest first.

    A connection is leaked when its peer has hung up and it stands still: in CLOSE_WAIT,
    accepted or waiting to be, or dead with its descriptor still open. The kernel is asked
    each time; nothing is installed, kept or changed, and the application's sockets are
    not touched. The kernel does the search, so that a healthy connection costs a fraction
    of a microsecond and a leaked one some twenty. It may be called from any thread.

    Other processes that share a connection are not searched for; the command
    `sockguard report` does that.

    Args:
        min_age: Seconds without progress from which on a connection counts as leaked.

    Raises:
        UsageError: `min_age` is negative or no number.
        KernelUnavailable: This is not Linux.
        OSError: EMFILE, if no descriptor at all is left to ask with.
    """
    try:
        makes_sense = min_age >= 0
    except TypeError:
        makes_sense = False
    if not makes_sense:
        msg = f"min_age={min_age!r} makes no sense: give seconds, 0 or more"
        raise UsageError(msg)
    guard = current_guard()
    known = guard.insight.known() if guard is not None else None
    return _find_leaks(look_at_self(), min_age=min_age, pids=[os.getpid()], known=known)
