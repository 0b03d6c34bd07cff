"""The system's own functions, whatever a green library has put in their place.

gevent's and eventlet's monkey-patching replace or remove functions in the modules of the
standard library, so that what would block a thread switches greenlets instead. The guard's
thread is no greenlet: it must sleep, poll and lock by the originals.
"""

import functools
import importlib
import sys
import time
from collections.abc import Callable
from typing import Any

__all__ = ["monotonic", "native"]

monotonic: Callable[[], float] = (
    functools.partial(time.clock_gettime, time.CLOCK_MONOTONIC) if hasattr(time, "CLOCK_MONOTONIC") else time.monotonic
)
"""`time.monotonic`, under a name that libraries which freeze the time in tests do not know: to them every function
of that name is to be replaced, and a guard whose clock jumps by years would find every time-out due."""

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
