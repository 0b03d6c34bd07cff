"""The system's own functions, whatever a green library has put in their place.

gevent's and eventlet's monkey-patching replace or remove functions in the modules of the
standard library, so that what would block a thread switches greenlets instead. The guard's
thread is no greenlet: it must sleep, poll and lock by the originals.

Tests do the same: they have a mock in the place of `os.stat`, a file system of their own
(pyfakefs) or a time that stands still (freezegun). Their mocks must neither count our calls nor
answer them. To be patched is whatever is in the module itself, and in the globals of every other
one, by whatever name; so what is kept here is kept in objects, where nobody looks.
"""

import functools
import importlib
import os
import sys
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

__all__ = ["monotonic", "native", "new_poll", "open_file", "sleep", "system", "wall_clock"]

if TYPE_CHECKING:
    import os as system

    open_file = open
else:
    _module = importlib.import_module(os.name)  # where `os` has them from, and no green library has been
    system = SimpleNamespace(**{name: thing for name, thing in vars(_module).items() if hasattr(os, name)})
    """What `os` has from the system, as it was when this was imported: functions and constants, but no `path`."""
    open_file = functools.partial(open)

monotonic: Callable[[], float] = (
    functools.partial(time.clock_gettime, time.CLOCK_MONOTONIC) if hasattr(time, "CLOCK_MONOTONIC") else time.monotonic
)
"""`time.monotonic`, under a name that libraries which freeze the time in tests do not know: to them every function
of that name is to be replaced, and a guard whose clock jumps by years would find every time-out due."""

wall_clock: Callable[[], float] = functools.partial(time.time)

_EVENTLET_NAMES = {"_thread": "thread", "threading": "thread"}
"""What eventlet (0.40) calls a module when it is asked whether it has patched it."""


def native(module: str, name: str) -> Any:
    """Gives a function of the standard library as it was before monkey-patching.

    Raises:
        AttributeError: The module has none, and never had.
    """
    gevent_monkey = sys.modules.get("gevent.monkey")
    if gevent_monkey is not None and gevent_monkey.is_module_patched(module):
        return gevent_monkey.get_original(module, name)
    eventlet_patcher = sys.modules.get("eventlet.patcher")
    if eventlet_patcher is not None and eventlet_patcher.is_monkey_patched(_EVENTLET_NAMES.get(module, module)):
        return getattr(eventlet_patcher.original(module), name)
    return getattr(importlib.import_module(module), name)


def _poll_of_the_system() -> Any:
    try:
        return functools.partial(native("select", "poll"))
    except AttributeError:
        return None  # Windows


new_poll = _poll_of_the_system()
"""Makes what `select.poll` makes."""
_sleep = functools.partial(native("time", "sleep"))


def sleep(seconds: float) -> None:
    """Sleeps; greenlets, where the program has them for threads, go on meanwhile."""
    if getattr(time.sleep, "__module__", "").startswith(("gevent.", "eventlet.")):
        time.sleep(seconds)
    else:
        _sleep(seconds)
