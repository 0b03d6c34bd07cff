"""A descriptor that is readable every so often, so that a wait for descriptors needs no time-out: timerfd_create(2).

To wait with a time-out costs more than to wait without one, each time: the kernel has to set
a timer and to take it back. In an echo loop of one connection, whose every message is a wait,
that was 4 % (Linux 6.18, a virtual machine). Here a timer is set once.

Python knows timerfd from 3.13 on; before that the C library is asked.
"""

import contextlib
import os
import time
from typing import Any

__all__ = ["Alarm"]

NANO = 1_000_000_000
_CLOCK = getattr(time, "CLOCK_MONOTONIC", 1)
_LINK = "anon_inode:[timerfd]"


class Alarm:
    """Rings every so often: then `fileno()` is readable until `hush` is called.

    Args:
        every: Seconds between two rings.

    Raises:
        OSError: This system has none, or no descriptor is left.
    """

    def __init__(self, every: float) -> None:
        self._fd = -1
        self._every = every
        self._began_at = time.clock_gettime(_CLOCK)
        self._fd = _start(every)
        self.next_at = self._began_at + every
        """The instant at which it rings next, or a moment before; of the monotonic clock."""

    def fileno(self) -> int:
        """Tells the descriptor; -1 after `close`."""
        return self._fd

    def hush(self) -> None:
        """Ends the ringing until the next time; if it does not ring yet, nothing changes."""
        try:
            n_rings = int.from_bytes(os.read(self._fd, 8), "little") or 1
        except BlockingIOError:
            return
        self.next_at += n_rings * self._every

    def close(self) -> None:
        """Gives the descriptor back, unless the program has closed it, and it is another file by now."""
        fd, self._fd = self._fd, -1
        with contextlib.suppress(OSError):
            if fd >= 0 and os.readlink(f"/proc/self/fd/{fd}") == _LINK:
                os.close(fd)

    def __del__(self) -> None:
        self.close()


def _start(every: float) -> int:
    if not hasattr(os, "timerfd_create"):
        return _start_by_libc(every)
    python: Any = os  # of 3.13
    fd = int(python.timerfd_create(_CLOCK, flags=python.TFD_NONBLOCK | python.TFD_CLOEXEC))
    python.timerfd_settime(fd, initial=every, interval=every)
    return fd


def _start_by_libc(every: float) -> int:
    import ctypes  # noqa: PLC0415 - 8 ms that a plain import of sockguard should not pay

    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "timerfd_create"):
        raise OSError("this system has no timerfd")
    fd = int(libc.timerfd_create(_CLOCK, os.O_NONBLOCK | os.O_CLOEXEC))
    seconds, part = divmod(round(every * NANO), NANO)
    both = (ctypes.c_long * 4)(seconds, part, seconds, part)  # struct itimerspec: the interval, and the first
    if fd < 0 or libc.timerfd_settime(fd, 0, both, None):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return fd
