"""How does work leave the guard's thread? By a queue, and a thread that lives only while there is something in it.

A program that is well has no thread of ours for this, and a fork finds none: Python 3.12 and
newer warn of a fork in a process with several threads, and count them as the system does. So
`pause` waits until the system has no such thread any more; that Python considers it ended is
earlier than that (3.12 and 3.13, Lib/threading.py).

It is a thread of `threading`, as `logging` asks for `threading.current_thread()`, and for any
other thread that makes a `_DummyThread`, which would stay in `threading.enumerate()`.

Where gevent or eventlet make greenlets of the program's threads, one of those does the work
instead (`green.py` says why).

Nothing here waits for a lock but `pause` and `flush`, which say for how long.
"""

import _thread
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from sockguard._engine.green import Hub, green_library
from sockguard._kernel.natives import monotonic, native
from sockguard._kernel.signal_masks import mask_of_new_thread, set_mask

__all__ = ["MAX_QUEUE", "Courier"]

MAX_QUEUE = 1000
"""Items that wait. One event is about 2 KB, so that is 2 MB at worst, while a log handler is stuck."""

MAX_PAUSE = 0.5
"""Seconds that a fork waits at most for a handler that is at work. What takes longer is stuck,
and a fork that comes late by more is worse than the warning that Python 3.12 and newer then give."""

END_EVERY = 0.0001
"""Seconds between two looks whether the thread has ended, which takes it about as long."""

FLUSH_EVERY = 0.001
"""Seconds between two looks whether all is handed over."""

T = TypeVar("T")


class Courier(Generic[T]):
    """Hands items over, in a thread of its own and in their order.

    Args:
        deliver: Called with each item; must not raise.
        name: Of the thread, while there is one.
    """

    def __init__(self, deliver: Callable[[T], object], name: str) -> None:
        self._deliver = deliver
        self._name = name
        self._queue: deque[T] = deque(maxlen=MAX_QUEUE)
        self._hub = Hub()
        self.n_lost = 0
        """Items that found the queue full; the oldest made room."""
        self.forget()

    def forget(self) -> None:
        """Takes note, in a forked child, that the thread did not come along; what waits is the parent's."""
        self._queue.clear()
        self._at_work = native("_thread", "allocate_lock")()
        self._pauses: list[None] = []  # a count; append and pop are atomic, += is not
        self._native_ids: list[int] = []
        self._ident: int | None = None

    def put(self, item: T) -> None:
        """Takes an item in; from one thread at a time."""
        if len(self._queue) == MAX_QUEUE:
            self.n_lost += 1
        self._queue.append(item)

    def wake(self) -> bool:
        """Sees to it that the queue is worked off; tells whether it is."""
        at_work = self._at_work
        if not self._queue or not at_work.acquire(False):
            return True
        # Only now: a pause that began before is seen here, and one that begins later finds the lock taken.
        if not self._pauses and self._start(at_work):
            return True
        at_work.release()
        return False

    def _start(self, at_work: _thread.LockType) -> bool:
        library = green_library()
        if library:
            return self._hub.spawn(library, self._run, at_work)
        try:
            mask = mask_of_new_thread()
            threading.Thread(target=self._run_native, args=(at_work, mask), name=self._name, daemon=True).start()
        except RuntimeError:  # too many threads, or the interpreter is about to end
            return False
        return True

    def _run_native(self, at_work: _thread.LockType, mask: set[int]) -> None:
        set_mask(mask)
        # One that has let the lock go may not have ended yet.
        self._native_ids = [*filter(_is_there, self._native_ids), native("_thread", "get_native_id")()]
        self._run(at_work)

    def _run(self, at_work: _thread.LockType) -> None:
        is_at_work = True
        while is_at_work:
            try:
                self._work_off()
            finally:
                at_work.release()
            # Whoever put an item in while the lock was held has left it to us.
            is_at_work = bool(self._queue) and not self._pauses and at_work.acquire(False)

    def _work_off(self) -> None:
        self._ident = threading.get_ident()
        while self._queue and not self._pauses:
            self._deliver(self._queue.popleft())
        self._ident = None

    def pause(self) -> None:
        """Starts no thread until `resume`, and waits, half a second at most, until the one that runs is gone."""
        self._pauses.append(None)
        if green_library() or self._ident == threading.get_ident():
            return  # there is no thread; or it is the very one that forks
        give_up_at = monotonic() + MAX_PAUSE
        if not self._at_work.acquire(True, MAX_PAUSE):
            return
        self._at_work.release()
        while any(map(_is_there, self._native_ids)) and monotonic() < give_up_at:
            time.sleep(END_EVERY)

    def resume(self) -> None:
        """Undoes one `pause`. What waits is handed over from the next `wake` on, not right now.

        Until cpython#137109 was repaired, Python 3.13 counted the threads only after the hooks
        that `os.fork` calls in the parent, and blamed the fork for one that these start.
        """
        self._pauses.pop()

    def flush(self, timeout: float) -> bool:
        """Waits until all items are handed over, `timeout` seconds at most; tells whether they are."""
        give_up_at = monotonic() + timeout
        while self.wake() and (self._queue or self._at_work.locked()):
            if monotonic() > give_up_at or self._ident == threading.get_ident():
                return False
            time.sleep(FLUSH_EVERY)  # under gevent its own, so that the hub turns
        return not self._queue

    def work_off_here(self) -> None:
        """Hands over what waits in the calling thread: at the end of the interpreter there is no other."""
        if self._at_work.acquire(False):
            try:
                self._work_off()
            finally:
                self._at_work.release()


def _is_there(native_id: int) -> bool:
    """Tells whether the system still has a thread of ours by that number."""
    return os.path.exists(f"/proc/self/task/{native_id}")
