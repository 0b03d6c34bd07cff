"""Between two messages: where a heartbeat may go, and nowhere else.

A thread that sends holds the gate, and so does a message of several parts. Whoever beats
only tries, and never waits. With one event loop all is one thread, which a lock does not
hold up, so the depth is counted too.
"""

import threading
from typing import Self

__all__ = ["SendGate"]


class SendGate:
    """Is held while a message is sent; by one thread at a time, as often as it likes."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._depth = 0

    def __enter__(self) -> Self:
        self._lock.acquire()
        self._depth += 1
        return self

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        self._lock.release()

    def try_enter(self) -> bool:
        """Enters if nobody is in, and tells whether it did; then `__exit__` must follow."""
        if not self._lock.acquire(blocking=False):
            return False
        if self._depth:
            self._lock.release()
            return False
        self._depth = 1
        return True
