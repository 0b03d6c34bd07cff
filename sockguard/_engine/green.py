"""How does a program made of greenlets do something for us? Its hub is asked for a greenlet, from outside.

Where gevent or eventlet have patched `threading`, the locks of `logging` are theirs, and must
not be taken on other threads. Measured with gevent 26.9 and eventlet 0.41: a thread of the
system logs while greenlets do, through a handler that yields, and within a second the
greenlets wait for that lock for ever, with the thread long gone. A thread of `threading` is
no better: it would be a greenlet of whoever starts it, in a hub that nobody turns.

So whatever may take a lock of the program is done by a greenlet of the program's own hub.
While that hub does not turn, it waits; a program that blocks its hub does nothing else either.
"""

import sys
from collections.abc import Callable
from typing import Any

from sockguard._engine.instances import instances_of
from sockguard._kernel.natives import monotonic

__all__ = ["Hub", "green_library"]

LOOK_EVERY = 5.0
"""Seconds between two searches for the hub, each of which looks at all objects: 50 ms for a million."""


def green_library() -> str | None:
    """Names the library that has made greenlets of this program's threads."""
    gevent_monkey = sys.modules.get("gevent.monkey")
    if gevent_monkey is not None and gevent_monkey.is_module_patched("threading"):
        return "gevent"
    eventlet_patcher = sys.modules.get("eventlet.patcher")
    if eventlet_patcher is not None and eventlet_patcher.is_monkey_patched("thread"):
        return "eventlet"
    return None


class Hub:
    """Finds the hub of the main thread, which no other thread can ask those libraries for."""

    def __init__(self) -> None:
        self._hub: Any = None
        self._look_again_at = 0.0

    def spawn(self, library: str, function: Callable[..., object], *args: object) -> bool:
        """Has a greenlet of that hub call a function; tells whether there is such a hub."""
        hub = self._find(library)
        if hub is None:
            return False
        package = sys.modules[library]
        if library == "gevent":
            hub.loop.run_callback_threadsafe(package.spawn_raw, function, *args)
        else:  # it appends to a list, and is seen to when the hub wakes up
            hub.schedule_call_global(0, package.spawn_n, function, *args)
        return True

    def _find(self, library: str) -> Any:
        is_main = _is_gevents_main if library == "gevent" else _is_eventlets_main
        kind = sys.modules["gevent.hub"].Hub if library == "gevent" else sys.modules["eventlet.hubs.hub"].BaseHub
        if self._hub is not None and not is_main(self._hub):
            self._hub = None  # it was destroyed
        if self._hub is None and monotonic() >= self._look_again_at:
            self._look_again_at = monotonic() + LOOK_EVERY
            self._hub = next(filter(is_main, instances_of(kind)), None)
        return self._hub


def _is_gevents_main(thing: Any) -> bool:
    return issubclass(type(thing), sys.modules["gevent.hub"].Hub) and thing.main_hub and thing.loop is not None


def _is_eventlets_main(thing: Any) -> bool:
    # The main thread's is made first, and there is one for each thread.
    return issubclass(type(thing), sys.modules["eventlet.hubs.hub"].BaseHub) and not thing.stopping
