"""What is known of a connection where the kernel keeps no books: the wrapper's stamps, and what any system tells.

Facts. Every system tells without waiting, and without taking a byte, how much waits to be
read (FIONREAD) and whether there is something to read or room to write (poll(2); select()
on Windows). Linux tells of the peer's FIN behind unread bytes, too (POLLRDHUP), and macOS
by POLLHUP; Windows only when nothing is unread: readable, and yet 0 bytes.

Danger. MSG_PEEK looks harmless and is not. It hands out a pending error (ECONNRESET), which
the kernel forgets by that: the application would read an orderly end (Linux, `sock_error`).
On a blocking socket, where there is no MSG_DONTWAIT, it waits if another thread of the
program was faster; and to change the blocking mode would change it for the application. And
getsockopt(SO_ERROR) takes the error away as well. So neither is used.

Price. An end is told by Windows only after what lies before it was read. That a connection
is over, and not only half-closed, is known elsewhere than on Linux when a call of the
application fails. What the peer has acknowledged is told by Linux and macOS for TCP; else
what the system took counts as acknowledged, and what it does not take any more as 1 byte unsent.
"""

import errno
import os
import select
import socket
import struct
import sys

from sockguard._core.books import Books
from sockguard._core.connection import Activity
from sockguard._core.facts import TcpState
from sockguard._kernel.backend import SocketLike, family_of
from sockguard._kernel.natives import native
from sockguard._kernel.one_socket import fd_of
from sockguard._kernel.unread import count_unread

try:
    from fcntl import ioctl
    from termios import TIOCOUTQ
except ImportError:  # Windows
    pass

__all__ = ["ENDS_IT", "is_connected", "read_queue", "read_stamps"]

ENDS_IT = frozenset({errno.ECONNRESET, errno.ECONNABORTED, errno.ETIMEDOUT, errno.ENETRESET})
"""Errors of a call on a connection after which it is over for good. EPIPE is none: it also comes after our own
shutdown(SHUT_WR), when there may be much to read yet. Windows says ENETRESET when keepalive has found nobody."""

_ESTABLISHED, _CLOSE, _CLOSE_WAIT = int(TcpState.ESTABLISHED), int(TcpState.CLOSE), int(TcpState.CLOSE_WAIT)
_INET = (socket.AF_INET, socket.AF_INET6)
_UNIX: int | None = getattr(socket, "AF_UNIX", None)
_IS_LINUX, _IS_MACOS = sys.platform == "linux", sys.platform == "darwin"
_IN, _OUT, _ERR, _HUP, _RDHUP = (getattr(select, f"POLL{name}", 0) for name in ("IN", "OUT", "ERR", "HUP", "RDHUP"))
_READABLE, _WRITABLE = _IN or 1, _OUT or 4
try:
    _new_poll = native("select", "poll")
except AttributeError:  # Windows
    _new_poll = None
_select = native("select", "select")

SO_NWRITE = 0x1024
"""sys/socket.h of macOS, getsockopt(2): bytes in the send buffer, which for TCP are those not acknowledged. Python has
no name for it."""
SURE = 3
"""How often in a row a socket must be readable with nothing to read before that is taken for the end: between the two
questions another thread may read what has just come. Only where the system does not tell of the end itself."""

_unpack_queue = struct.Struct("=i").unpack


def read_stamps(sock: SocketLike, books: Books, now: float, *, buffered: int = 0) -> Activity:
    """Reads what is known of one connection; never waits, takes no byte and no error away.

    In the words of `Activity`:

    - `state`: CLOSE if a call has failed for good, or if Linux says that both directions of a
      TCP connection are shut. CLOSE_WAIT if the peer sends no more; a Unix socket whose peer is gone is so,
      too, as its descriptor is as much left open. Else ESTABLISHED. The application's own
      shutdown(SHUT_RD) looks like a peer that sends no more.
    - `received`: what the application has read, and what waits for it; and 1 for the end.
    - `unread`: FIONREAD.
    - `unsent`: `buffered`, and what is not acknowledged of TCP on Linux and macOS; else 1 if
      the system takes no more. (What Linux tells of a Unix socket is memory; see `read_queue`.)
    - `acked`: what was sent without that; where the system does not tell what is
      unsent, all that it took. No SYN and no FIN is counted.
    - `since_received`: 0 while bytes are unread, as nobody knows when they came.
    - `since_heard`: since a byte moved; 0 where bytes are taken from us unseen, in between two looks.
    - `eof_unread`: exact, as the wrapper notes when the end is read.

    Args:
        sock: A socket, or what an event loop gives in place of one.
        books: Its stamps.
        now: The monotonic clock.
        buffered: Bytes that were noted as sent and wait in the program itself, as in the buffer of a transport.

    Raises:
        OSError: It is closed.
    """
    fd = _open_fd(sock)
    flags = _ask(fd, _READABLE)
    unread = count_unread(fd)
    told = _read_unsent(sock, fd)
    has_ended = books.eof_at is not None or _has_ended(fd, flags)
    stuck = 1 if told is None and not flags & _HUP and not _ask(fd, _WRITABLE) & _WRITABLE else 0
    return Activity(
        state=_state(sock, flags, books, has_ended=has_ended),
        received=books.received_bytes + unread + has_ended,
        acked=max(0, books.sent_bytes - buffered - (told or 0)),
        unread=unread,
        unsent=buffered + (told or stuck),
        since_received=0.0 if unread else max(0.0, now - books.received_at),
        since_heard=0.0 if buffered or told is not None else max(0.0, now - books.last_update),
        eof_unread=has_ended and books.eof_at is None,
    )


def _open_fd(sock: SocketLike) -> int:
    if (fd := fd_of(sock)) < 0:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    return fd


def _state(sock: SocketLike, flags: int, books: Books, *, has_ended: bool) -> int:
    # Linux: HUP is both directions shut (tcp_poll, unix_poll), and HUP with ERR a reset. Of a
    # Unix socket HUP alone may be a peer that closed; elsewhere it may be a FIN.
    is_over = _IS_LINUX and flags & _HUP and (flags & _ERR or family_of(sock) in _INET)
    if is_over or books.failed_at is not None:
        return _CLOSE
    return _CLOSE_WAIT if has_ended else _ESTABLISHED


def _has_ended(fd: int, flags: int) -> bool:
    if flags & (_HUP | _RDHUP):
        return True
    if not flags & _READABLE or _RDHUP:
        return False
    return all(_ask(fd, _READABLE) & _READABLE and not count_unread(fd) for _ in range(SURE))


def _ask(fd: int, wanted: int) -> int:
    """Asks what is ready, without waiting. One question each: macOS says HUP of reading and of writing alike."""
    if _new_poll is None:
        reading, writing = ([], [fd]) if wanted == _WRITABLE else ([fd], [])
        return wanted if any(_select(reading, writing, [], 0)) else 0
    asked = _new_poll()
    asked.register(fd, wanted | _RDHUP)
    found = asked.poll(0)
    flags = found[0][1] if found else 0
    if flags & select.POLLNVAL:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    return int(flags)


def _ask_queue(fd: int, question: int) -> int:
    count = bytearray(4)
    ioctl(fd, question, count)
    return int(_unpack_queue(count)[0])


def _read_unsent(sock: SocketLike, fd: int) -> int | None:
    """Reads how many bytes the peer has not acknowledged; None where the system does not tell."""
    try:
        if _IS_LINUX and family_of(sock) in _INET:
            return _ask_queue(fd, TIOCOUTQ)
        return int(sock.getsockopt(socket.SOL_SOCKET, SO_NWRITE)) if _IS_MACOS else None
    except OSError:
        return None


def read_queue(sock: SocketLike) -> int | None:
    """Reads how much memory of a Unix socket its peer has not freed by reading; None where Linux does not tell.

    It is not in bytes (each message has some 700 more), and memory is freed only when a
    whole message is read. So it tells one thing: if it is less than before, the peer reads.

    Raises:
        OSError: It is closed.
    """
    if not _IS_LINUX or family_of(sock) != _UNIX:
        return None
    return _ask_queue(_open_fd(sock), TIOCOUTQ)


def is_connected(sock: SocketLike) -> bool:
    """Tells whether a socket has a peer: not before connect() is through, and no more when a TCP connection is over.

    Raises:
        OSError: It is closed.
    """
    try:
        sock.getpeername()
    except OSError as error:
        if error.errno in (errno.ENOTCONN, errno.EINVAL):
            return False
        raise
    return True
