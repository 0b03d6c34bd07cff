"""How a guarded socket came to its end, and by which signs that is told."""

import _socket
import contextlib
import errno
from typing import Any, NamedTuple

from sockguard._core.connection import Activity
from sockguard._core.facts import TcpState
from sockguard._engine.terms import Terms
from sockguard._kernel.activity import was_ever_connected
from sockguard._kernel.peer_name import read_peer_name

__all__ = ["ENDED_BY_PEER", "NO_ERROR", "End", "is_over_after", "is_to_connect", "make_end"]

_Raw = _socket.socket
_CLOSE, _CLOSE_WAIT = int(TcpState.CLOSE), int(TcpState.CLOSE_WAIT)

NO_ERROR = frozenset(
    {
        None,
        errno.EAGAIN,
        errno.EWOULDBLOCK,
        errno.EINTR,
        errno.EINPROGRESS,
        errno.EALREADY,
        errno.EINVAL,
        errno.EMSGSIZE,
    }
)
"""Errors that say nothing of the connection: one to repeat, or without sense; and None, a time-out of Python's."""
ENDED_BY_PEER = frozenset({_CLOSE, _CLOSE_WAIT, int(TcpState.LAST_ACK), int(TcpState.CLOSING), int(TcpState.TIME_WAIT)})


class End(NamedTuple):
    """How a socket came to its end without a close() of its program."""

    why: str
    is_eof: bool
    """It was the peer's orderly end, so that to receive from it gives nothing, and is no error."""
    names: dict[str, Any]
    """What getsockname and getpeername said before."""

    def error(self) -> ConnectionAbortedError:
        """Makes what is raised for a call that comes too late."""
        return ConnectionAbortedError(errno.ECONNABORTED, f"sockguard ended this connection: {self.why}")


def make_end(sock: _socket.socket, why: str, *, is_eof: bool) -> End:
    """Takes note of an end, and of the names of the connection while there are some."""
    names = {}
    for name, read in (("getsockname", _Raw.getsockname), ("getpeername", read_peer_name)):
        with contextlib.suppress(OSError):
            names[name] = read(sock)
    return End(why, is_eof, names)


def is_over_after(sock: Any, facts: Activity, error: OSError, *, has_books: bool) -> bool:
    """Tells whether a connection is over, of which a call has failed."""
    if has_books:  # a Unix socket that takes no more, and gives no more
        is_gone = error.errno == errno.EPIPE and facts.state == _CLOSE_WAIT
        return is_gone or facts.state == _CLOSE
    return facts.state == _CLOSE and not is_to_connect(sock, facts)


def is_to_connect(sock: Any, facts: Activity, terms: Terms | None = None) -> bool:
    """Tells whether there was no connection yet, though it looks over: a connect() was refused, the next may not be.

    Linux gives an end of the stream there, once the error was fetched.
    """
    if facts.state != _CLOSE or (terms is not None and terms.books is not None):
        return False
    with contextlib.suppress(OSError):
        return not was_ever_connected(sock)
    return True
