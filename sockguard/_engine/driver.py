"""Who turns the wheel? A daemon thread of the guard's own, so that it works while an event loop is blocked.

It is a bare thread of the system: `threading` does not list it, as tests and servers count
threads, and gevent's patches do not turn it into a greenlet. Before a fork it has to be
gone, or Python 3.12 and newer warn of a fork with threads, and they count in /proc. So
stopping waits until the system has no such thread any more, not until it says goodbye.
And starting waits until it is there: Python counts a thread (`_thread._count()`) only once
it runs, and whoever counts right after a fork must find as many as before it.

Several threads may fork at once, and stopping lets the others run. So forks pause it, and pauses are
counted: the second one finds no thread, and must not conclude that there is none to go on with.

No signal is for it. A program that blocks a signal in all its threads, to take it by
sigwait(), would be killed by it in one that it does not know of. For the same reason a thread that it starts, for what
is logged, does not block nothing, but what the thread did that started the driver (`signal_masks.py`).

Where there is no /proc, stopping can only wait for the last word of the thread, which is a
few instructions before its end; and Windows has neither forks nor signals that threads could block.
"""

import contextlib
import math
import os
import threading
from collections.abc import Callable
from typing import Any

from sockguard._core.timers import TICK
from sockguard._engine.turns import MOST, SOON
from sockguard._kernel.natives import monotonic, native
from sockguard._kernel.signal_masks import block_signals, own_mask

__all__ = ["Driver"]

MAX_WAIT = 1.0
"""Seconds that starting and stopping wait at most: a fork must not hang on us."""

# Taken once, here: tests of the program put mocks in the place of such functions, which must not
# count our calls, nor answer them.
_start_thread, _new_lock = native("_thread", "start_new_thread"), native("_thread", "allocate_lock")
_new_rlock = native("_thread", "RLock")
_native_id = native("_thread", "get_native_id" if hasattr(threading, "get_native_id") else "get_ident")
_pause = native("time", "sleep")
_now, _stat = monotonic, os.stat


class Driver:
    """Calls `tick` every quarter of a second in a thread, until it is stopped.

    Args:
        tick: Called with the monotonic clock, and in a thread of the program's with how much it may do at once; tells
            whether there is more. Must not raise.
    """

    def __init__(self, tick: Callable[..., bool], every: float = TICK) -> None:
        self._tick = tick
        self._every = every
        self._sleep, self._presence = _new_lock(), _new_lock()
        self._is_stopped = True
        self._changing = _new_rlock()  # again and again, as a signal handler may fork while its thread is in here
        self._n_pauses = 0
        self._goes_on = False
        """The thread is to be there after the last pause."""
        self._mask: set[int] = set()
        """What the thread blocks that called `start`; not the one that forks, as some block all signals for it."""
        self._thread_id: int | None = None
        self._next_tick_at = -math.inf
        self.is_behind = False
        """There is more to do, and it is to be done soon; where there is no thread."""

    @property
    def is_running(self) -> bool:
        """Tells whether the thread is there."""
        return not self._is_stopped

    def tick_if_driven(self, now: float) -> float:
        """Ticks in the caller's thread, if that is due and there is no thread of our own.

        Returns:
            The instant at which it wants to be called next.
        """
        if not self._is_stopped:
            return math.inf
        if now >= self._next_tick_at:
            self._next_tick_at = now + self._every
            self.is_behind = self._tick(now, MOST)
            if self.is_behind:
                self._next_tick_at = now + SOON
        return self._next_tick_at

    def start(self) -> None:
        """Starts the thread; in a pause, has it start at the end of that.

        Raises:
            RuntimeError: The system has none left.
        """
        with self._changing:
            if self._is_stopped:
                self._mask = own_mask()
                self._goes_on = True
                self._go_on()

    def _begin(self) -> None:
        self._is_stopped = False
        self._sleep, self._presence, is_there = _new_lock(), _new_lock(), _new_lock()
        for lock in (self._sleep, self._presence, is_there):
            lock.acquire()
        self._thread_id = None
        try:
            _start_thread(self._run, (self._sleep, self._presence, is_there))
        except RuntimeError:
            self._is_stopped = True
            raise
        is_there.acquire(timeout=MAX_WAIT)

    def _run(self, sleep: Any, presence: Any, is_there: Any) -> None:
        block_signals(self._mask)
        self._thread_id = _native_id()
        is_there.release()
        try:
            while True:
                sleep.acquire(timeout=self._every)
                if self._is_stopped or self._sleep is not sleep:  # the latter if a tick took longer than stop() waits
                    return
                self._tick(_now())
                _leave_no_dummy()
        finally:
            presence.release()

    def wake(self) -> None:
        """Makes the next tick happen now; from any thread, and without waiting."""
        with contextlib.suppress(RuntimeError):  # it is awake
            self._sleep.release()

    def stop(self) -> None:
        """Stops the thread, and waits until the system has no such thread any more."""
        with self._changing:
            self._goes_on = False
            self._end()

    def pause(self) -> None:
        """Stops the thread until `resume`; of pauses that overlap, until the last of these."""
        with self._changing:  # so a second one waits for the end of the thread, too
            self._goes_on = self._goes_on or self.is_running
            self._n_pauses += 1
            self._end()

    def resume(self) -> None:
        """Undoes one `pause`. In a forked child it undoes all, after `forget`.

        Raises:
            RuntimeError: The system has no thread left.
        """
        with self._changing:
            self._n_pauses = max(0, self._n_pauses - 1)
            self._go_on()

    def _go_on(self) -> None:
        if self._goes_on and not self._n_pauses:
            self._goes_on = False
            self._begin()

    def _end(self) -> None:
        if self._is_stopped:
            return
        self._is_stopped = True
        self.wake()
        give_up_at = _now() + MAX_WAIT
        while self._is_alive() and _now() < give_up_at:
            _pause(0.0001)

    def _is_alive(self) -> bool:
        if self._thread_id is None:
            return True  # not even begun
        try:
            _stat(f"/proc/self/task/{self._thread_id}")
        except OSError:  # gone; or there is no such list
            return bool(self._presence.locked())
        return True

    def forget(self) -> None:
        """Takes note, in a forked child, that the thread did not come along, nor any other that has paused it."""
        self._changing = _new_rlock()
        self._n_pauses = 0
        self._is_stopped = True
        self._thread_id = None


def _leave_no_dummy() -> None:
    """Takes our thread off the list of `threading`, which a finalizer of the program can have put it on.

    The garbage collector runs in whatever thread, and finalizers with it. One that logs asks
    for `threading.current_thread()`, and for a thread that it does not know, that makes and lists a dummy.
    """
    threading._active.pop(threading.get_ident(), None)  # type: ignore[attr-defined]  # noqa: SLF001 - there is no door to it
