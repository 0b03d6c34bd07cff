"""Between two messages: where a heartbeat may go, and nowhere else.

A thread that sends holds the gate, and so does a message of several parts. Whoever beats
only tries, and never waits; and who sends waits no longer than its socket would. With one event
loop all is one thread, which a lock does not hold up, so the depth is counted too. A signal
handler may send while its own thread is inside.

Danger. In a forked child the thread that holds the gate may not exist: nobody would ever
leave. So each gate takes a new lock there, unless the one that holds it is the thread that forked.
"""

import os
import threading
import weakref
from typing import Self

__all__ = ["SendGate"]

_gates: "weakref.WeakSet[SendGate]" = weakref.WeakSet()


class SendGate:
    """Is held while a message is sent; by one thread at a time, as often as it likes."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._depth = 0
        _gates.add(self)

    def __enter__(self) -> Self:
        self.enter(None)
        return self

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        self._lock.release()

    def enter(self, timeout: float | None) -> bool:
        """Enters, and tells whether it did; then `__exit__` must follow.

        Args:
            timeout: Seconds to wait at most while another thread is inside; None: as long as it takes.
        """
        is_in = self._lock.acquire(timeout=-1 if timeout is None else min(timeout, threading.TIMEOUT_MAX))
        if is_in:
            self._depth += 1
        return is_in

    def try_enter(self) -> bool:
        """Enters if nobody is in, not even this thread, and tells whether it did; then `__exit__` must follow."""
        if not self._lock.acquire(blocking=False):
            return False
        if self._depth:
            self._lock.release()
            return False
        self._depth = 1
        return True

    def renew(self) -> None:
        """Takes a lock that nobody holds, if another thread holds the old one: in a forked child that has gone."""
        if self._lock.acquire(blocking=False):
            self._lock.release()
        else:
            self._lock, self._depth = threading.RLock(), 0


def _renew_all() -> None:
    for gate in tuple(_gates):
        gate.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_all)
