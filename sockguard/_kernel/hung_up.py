"""Which of these descriptors have hung up, and how do they stand? Takes no byte and no pending error from anybody.

poll(2) tells of a FIN (POLLRDHUP) and of an end in both directions (POLLHUP, POLLERR). It is
asked for nothing else, so what is well is not even listed, and one system call does for all.
macOS knows no POLLRDHUP and says POLLHUP for a FIN; Windows has no poll(), and there whatever
is readable has to be looked at.

What comes out is a hint. POLLHUP is also said of a socket that has not begun to connect, and
POLLRDHUP after our own shutdown(SHUT_RD). So whoever acts looks at each first.
"""

import _socket
import contextlib
import select
import socket
import sys
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from sockguard._core.books import Books
from sockguard._core.connection import Activity
from sockguard._core.facts import TcpState
from sockguard._kernel.activity import read_activity, was_ever_connected
from sockguard._kernel.backend import keeps_books
from sockguard._kernel.eof import is_eof_unread
from sockguard._kernel.natives import native
from sockguard._kernel.portable import is_connected, read_stamps

__all__ = ["HungUp", "find_hung_up", "read_end", "seen_through"]

_WANTED = getattr(select, "POLLRDHUP", 0)
_BOTH = getattr(select, "POLLHUP", 0) | getattr(select, "POLLERR", 0)
_new_poll = native("select", "poll") if hasattr(select, "poll") else None
_select = native("select", "select")
_IS_LINUX = sys.platform == "linux"
_STREAM = socket.SOCK_STREAM


class HungUp(NamedTuple):
    """One descriptor that has hung up, or is closed."""

    fd: int
    is_both: bool
    """In both directions. Told by Linux only."""


def find_hung_up(fds: Iterable[int]) -> list[HungUp]:
    """Finds those that have hung up, and those that are closed."""
    if _new_poll is None:
        return [HungUp(fd, is_both=False) for fd in _select(list(fds), [], [], 0)[0]]
    poll = _new_poll()
    for fd in fds:
        poll.register(fd, _WANTED)
    return [HungUp(fd, _IS_LINUX and bool(events & _BOTH)) for fd, events in poll.poll(0)]


def read_end(sock: _socket.socket, hung_up: HungUp) -> Activity | None:
    """Looks at a stream connection that has hung up; None if it is none, or none yet.

    Where the kernel keeps no books nothing is known of what the application has sent and
    read before, and of a TCP connection that was reset not even that it was one: None, too.

    Raises:
        OSError: It is closed.
    """
    if sock.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE) != _STREAM:
        return None
    if keeps_books(sock):
        activity = read_activity(sock)
        if activity.state == TcpState.CLOSE and not was_ever_connected(sock):
            return None
        return activity._replace(eof_unread=is_eof_unread(sock, activity.state))
    if not is_connected(sock):
        return None
    activity = read_stamps(sock, Books(0.0), 0.0)
    return activity._replace(state=TcpState.CLOSE) if hung_up.is_both else activity


@contextlib.contextmanager
def seen_through(fd: int) -> Iterator[_socket.socket]:
    """Gives a socket object for a descriptor of somebody else's, to ask and for nothing else.

    The object lets go of the number whatever happens: it is in the `try` before it has one,
    as an object that dies with a number closes it.

    Raises:
        OSError: The descriptor is closed, or no socket.
    """
    sock = _socket.socket.__new__(_socket.socket)
    try:
        # "Non-blocking" is a claim, which keeps setdefaulttimeout() out of it (pidfd.py).
        sock.__init__(-1, _STREAM | getattr(socket, "SOCK_NONBLOCK", 0), -1, fd)  # type: ignore[misc]
        yield sock
    finally:
        sock.detach()
