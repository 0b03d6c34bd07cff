"""What a guarded socket is, apart from how it receives and sends: its terms, and how it comes to its end.

A connection ends in one of three ways. The program closes it; then what is unread is drained
by the guard, lest the close becomes a reset. Or a call of the program's finds that it is
over (`found_eof`, `is_past_end`); then it is closed on that call. Or the guard has ended it
(`let_go`), while the program may be doing something else.
"""

import _socket
import contextlib
import errno
import os
import socket
import weakref
from typing import Any, NamedTuple

from sockguard._core.connection import Activity
from sockguard._core.decide import Action, Reason, Verdict
from sockguard._core.facts import TcpState
from sockguard._core.policy import Policy
from sockguard._engine.current import shared_guard
from sockguard._engine.handle import GuardedConnection
from sockguard._engine.sockets.in_use import is_in_use, take_off
from sockguard._engine.sockets.meter import Meter
from sockguard._engine.sockets.pulse import Pulse
from sockguard._engine.terms import Terms, make_terms
from sockguard._kernel.activity import was_ever_connected
from sockguard._kernel.natives import monotonic
from sockguard._kernel.one_socket import fd_of
from sockguard._kernel.portable import ENDS_IT
from sockguard._kernel.ready import has_unread

__all__ = ["Guarded"]

_Raw = _socket.socket
_close, _type_of, _timeout_of = _Raw.close, _Raw.type.__get__, _Raw.gettimeout
_shutdown = _Raw.shutdown

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
_CLOSE, _CLOSE_WAIT = int(TcpState.CLOSE), int(TcpState.CLOSE_WAIT)
_ENDED_BY_PEER = frozenset(
    {_CLOSE, _CLOSE_WAIT, int(TcpState.LAST_ACK), int(TcpState.CLOSING), int(TcpState.TIME_WAIT)}
)

_n_forks = 0


def _count_fork() -> None:
    global _n_forks  # noqa: PLW0603 - of this process
    _n_forks += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_parent=_count_fork, after_in_child=_count_fork)


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


class Guarded(socket.socket):
    """The part of a guarded socket that is the same however it receives and sends."""

    __slots__ = (
        "_end",
        "_is_deaf",
        "_is_known",
        "_is_taken",
        "_meter",
        "_n_busy",
        "_n_forks",
        "_orphan",
        "_policy",
        "_terms",
    )

    def _begin(self, policy: Policy | None) -> None:
        self._policy = policy
        self._terms: Terms | None = None
        self._meter: Meter | None = None
        self._is_taken = False
        """The guard knows of it: it is a connection."""
        self._is_known = False
        """Its number was handed out, so it may be registered somewhere."""
        self._end: End | None = None
        self._n_forks = _n_forks
        self._n_busy = 0
        self._is_deaf = False
        """The program has shut down receiving: what it receives says nothing of the peer."""

    @property
    def connection(self) -> GuardedConnection:
        """What is known of the connection, and what its program has to say of it: see `GuardedConnection`."""
        guard = shared_guard()
        if self._terms is None:
            self._terms = make_terms(self._policy, self, guard.policy)
        return GuardedConnection(weakref.ref(self), self._terms, guard)

    def _take_in(self, *, is_server: bool, listener: object = None) -> None:
        """Hands the connection to the guard. Nothing to do for what is no stream."""
        if _type_of(self) != socket.SOCK_STREAM:
            return
        guard = shared_guard()
        terms = self._terms
        if terms is None:
            terms = self._terms = make_terms(self._policy, self, guard.policy)
        self._is_taken = True
        beats = terms.heart is not None and (self._policy or guard.policy).mode == "enforce"
        if terms.books is not None or beats:
            self._meter = self._meter or (Pulse(terms) if beats else Meter(terms))
        guard.adopt(self, self, is_server, listener, terms)
        if beats:
            guard.hearts.add(self, monotonic())

    def _set_policy(self, policy: Policy | None) -> None:
        """Takes another policy, from now on."""
        self._policy, self._terms = policy, None
        if self._is_taken:
            guard = shared_guard()
            record = guard.registry.by_fd.get(fd_of(self))
            self._meter = None
            self._take_in(is_server=record is None or record.is_server)

    def beat(self, now: float) -> float | None:
        """Sends a heartbeat if one is due; called by the guard."""
        return self._meter.beat(self, shared_guard(thread=False), now) if isinstance(self._meter, Pulse) else None

    # --- Its end ---

    def let_go(self, why: str) -> None:
        """Releases the descriptor of a connection that the guard has ended, if that is safe; called by the guard.

        Not if the number was handed out: it may be registered in a selector. And not while
        bytes are unread. Then the next call of the program that finds nothing does it.
        """
        if self._end is None:
            self._end = self._make_end(why, is_eof=False)
        if not self._is_known and not has_unread(self):
            self._release()

    def _make_end(self, why: str, *, is_eof: bool) -> End:
        names = {}
        for name in ("getsockname", "getpeername"):
            with contextlib.suppress(OSError):
                names[name] = getattr(_Raw, name)(self)
        return End(why, is_eof, names)

    def _found_eof(self) -> None:
        """Does what the policy wants when the peer's end was read; called for nothing in answer to a wish for bytes."""
        if self._end is not None:
            self._release()
        if not self._is_taken or self._end is not None or self._is_deaf:
            return
        connection = self.connection
        policy, facts = connection.policy, connection.facts
        if policy.mode != "enforce" or facts is None or facts.unread:
            return
        if policy.half_close == "close" and facts.state in _ENDED_BY_PEER:
            why, setting = "its peer has closed its side, and half_close is 'close'", "half_close"
            self._end_by_itself(why, Verdict(Action.SHUT_DOWN, Reason.HALF_CLOSED, setting, None, 0.0), is_eof=True)
        elif facts.state == _CLOSE:
            verdict = Verdict(Action.SHUT_DOWN, Reason.DEAD, None, None, 0.0)
            self._end_by_itself("it is over", verdict, is_eof=True)

    def _is_past_end(self, error: OSError) -> bool:
        """Does what is to be done about an error; tells whether there is nothing but the end of the stream instead.

        Raises:
            ConnectionAbortedError: The guard has ended the connection, and this call came after that.
        """
        if error.errno in NO_ERROR:
            return False
        if self._end is not None:
            self._release()
            if error.errno != errno.EBADF:
                return False
            if self._end.is_eof:
                return True
            raise self._end.error() from None
        if self._is_taken and error.errno != errno.EBADF:
            self._found_error(error)
        return False

    def _found_error(self, error: OSError) -> None:
        """Closes after an error, if the kernel says that the connection is over and nothing is left to read."""
        connection = self.connection
        books = connection._terms.books  # noqa: SLF001
        if books is not None and error.errno in ENDS_IT:
            books.failed(monotonic())
        facts = connection.facts
        if connection.policy.mode != "enforce" or facts is None or facts.unread:
            return
        if _is_over(self, facts, error, has_books=books is not None):
            verdict = Verdict(Action.SHUT_DOWN, Reason.DEAD, None, None, 0.0)
            self._end_by_itself(f"it is over since a call failed with {error}", verdict, is_eof=False)

    def _end_by_itself(self, why: str, verdict: Verdict, *, is_eof: bool) -> None:
        assert self._terms is not None  # noqa: S101 - it is guarded
        if self._terms.verdict is None:
            self._terms.verdict = verdict
        else:  # by the guard, just now: our call was woken by that
            why, is_eof = self.connection.ended_by or why, False
        self._end = self._make_end(why, is_eof=is_eof)
        self._release()

    def _release(self) -> None:
        """Closes the descriptor; while another thread is inside of a call, wakes that, and the next call closes."""
        if fd_of(self) >= 0 and (self._n_busy or is_in_use(self)):
            with contextlib.suppress(OSError):
                _shutdown(self, socket.SHUT_RDWR)
            return
        self._closed = True
        self._orphan = take_off(self) or getattr(self, "_orphan", None)
        if self._orphan is not None and not is_in_use(self):
            self._orphan.close()
            self._orphan = None

    # --- The program's own close ---

    def _real_close(self, _ss: type[_socket.socket] = _Raw) -> None:
        """Closes; what was not read is drained by the guard, so that the peer gets the end of our answer."""
        if self._is_taken and has_unread(self) and self._wants_drain():
            shared_guard().linger(self, self.connection.policy)
        else:
            _ss.close(self)

    def _wants_drain(self) -> bool:
        """Tells whether to close now would be a reset that nobody wants.

        Not in a process that has forked since it was opened: our FIN would end the connection for
        the other one as well, which may be who serves it.
        """
        policy = self.connection.policy
        if policy.mode != "enforce" or policy.drain_timeout is None or self._n_forks != _n_forks:
            return False
        try:
            linger = self.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8)
        except OSError:
            return False
        return not any(linger[: len(linger) // 2])  # else the program wants it otherwise


def _is_over(sock: Guarded, facts: Activity, error: OSError, *, has_books: bool) -> bool:
    if has_books:  # a Unix socket that takes no more, and gives no more
        is_gone = error.errno == errno.EPIPE and facts.state == _CLOSE_WAIT
        return is_gone or facts.state == _CLOSE
    with contextlib.suppress(OSError):
        return facts.state == _CLOSE and was_ever_connected(sock)
    return False
