"""Is there something to read, or room to write? One question each, for sockets that our own wrappers serve.

`has_unread` is asked at each close of a guarded socket: FIONREAD (SIOCINQ of tcp(7)), 0.5 us.
"""

import _socket
import errno
import os
import select
import sys

from sockguard._kernel.natives import monotonic

if sys.platform != "win32":
    from fcntl import ioctl
    from termios import FIONREAD

__all__ = ["has_unread", "is_ready"]

_fileno = _socket.socket.fileno
_NOTHING = bytes(4)


def has_unread(sock: _socket.socket) -> bool:
    """Tells whether bytes wait to be read, a FIN not counted; False where it cannot be told, and of a closed socket."""
    if sys.platform == "win32":
        return False
    try:
        return ioctl(_fileno(sock), FIONREAD, _NOTHING) != _NOTHING
    except (OSError, ValueError):  # it listens; it is closed
        return False


def is_ready(sock: _socket.socket, until: float | None = 0.0, *, to_write: bool = False) -> bool:
    """Waits until a socket can be read from, or written to, without waiting; an end and an error count, too.

    Args:
        until: An instant of the monotonic clock; None: for ever. What is past, as 0.0: not at all.

    Raises:
        OSError: It is closed.
    """
    fd = _fileno(sock)
    if fd < 0:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    seconds = None if until is None else max(0.0, until - monotonic())
    if sys.platform == "win32":
        return any(select.select([] if to_write else [fd], [fd] if to_write else [], [], seconds))
    poll = select.poll()
    poll.register(fd, select.POLLOUT if to_write else select.POLLIN)
    return bool(poll.poll(None if seconds is None else seconds * 1000))
