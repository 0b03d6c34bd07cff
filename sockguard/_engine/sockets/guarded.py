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

from sockguard._core.decide import Action, Reason, Verdict
from sockguard._core.facts import TcpState
from sockguard._core.heartbeat import Heart
from sockguard._core.policy import Policy
from sockguard._engine.current import current_guard, shared_guard
from sockguard._engine.handle import GuardedConnection
from sockguard._engine.send_gate import SendGate
from sockguard._engine.sockets.end import ENDED_BY_PEER, NO_ERROR, End, is_over_after, is_to_connect, make_end
from sockguard._engine.sockets.in_use import is_in_use, take_off
from sockguard._engine.sockets.meter import Meter
from sockguard._engine.sockets.pulse import Pulse
from sockguard._engine.terms import Terms, make_terms
from sockguard._kernel.natives import monotonic
from sockguard._kernel.one_socket import fd_of
from sockguard._kernel.portable import ENDS_IT
from sockguard._kernel.ready import has_unread

__all__ = ["ANYBODY", "A_SELECTOR", "Guarded"]

_Raw = _socket.socket
_close, _type_of, _timeout_of = _Raw.close, _Raw.type.__get__, _Raw.gettimeout
_shutdown = _Raw.shutdown

_CLOSE = int(TcpState.CLOSE)

NOBODY, A_SELECTOR, ANYBODY = range(3)
"""Who was told the number of a socket: a `GuardedSelector`, which copes with its release; or anybody else."""

_n_forks = 0


def _count_fork() -> None:
    global _n_forks  # noqa: PLW0603 - of this process
    _n_forks += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_parent=_count_fork, after_in_child=_count_fork)


class Guarded(socket.socket):
    """The part of a guarded socket that is the same however it receives and sends."""

    __slots__ = (
        "_end",
        "_fault",
        "_is_deaf",
        "_is_server",
        "_is_shared",
        "_is_spent",
        "_is_taken",
        "_known_to",
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
        self._is_server = True
        self._known_to = NOBODY
        """Who knows its number: it may be registered somewhere, or be another process's as well by now."""
        self._is_shared = False
        """There is, or was, a duplicate."""
        self._is_spent = False
        """It is at its end, and shut down, but its number is left to the program."""
        self._end: End | None = None
        self._fault: str | None = None
        """With what a call of the program's has failed, if the connection was over, and some of it still to be read."""
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
        if self._is_shared and self._is_taken:
            self._terms.fd = fd_of(self)  # a deadline is to find it, though its duplicate may be gone
        return GuardedConnection(weakref.ref(self), self._terms, guard)

    def _take_in(self, *, is_server: bool, listener: object = None) -> None:
        """Hands the connection to the guard. Nothing to do for what is no stream."""
        if _type_of(self) != socket.SOCK_STREAM:
            return
        guard = shared_guard()
        terms = self._terms
        if terms is None:
            terms = self._terms = make_terms(self._policy, self, guard.policy)
        wanted = terms.policy or guard.policy
        self._is_taken, self._is_server = True, is_server
        beats = wanted.heartbeat is not None and wanted.mode == "enforce"
        if wanted.heartbeat is not None and beats and terms.heart is None:
            terms.heart, terms.gate = Heart(wanted.heartbeat, monotonic()), SendGate()
        if beats and not isinstance(self._meter, Pulse):
            self._meter = Pulse(terms)
        elif terms.books is not None and self._meter is None:
            self._meter = Meter(terms)
        guard.adopt(self, self, is_server, listener, terms, None, 3)  # _take_in, accept, the program
        if beats and isinstance(self._meter, Pulse):
            self._meter.renew_after_fork()
            guard.hearts.add(self, monotonic())

    def _set_policy(self, policy: Policy | None) -> None:
        """Takes another policy, from now on. What is known and held of the connection stays."""
        self._policy = policy
        if self._terms is not None:
            self._terms.policy = policy
        if self._is_taken:
            self._take_in(is_server=self._is_server)

    def _share(self, copy: "Guarded") -> None:
        """Has a duplicate go by the very terms of this, heart and all: there is one connection, and one stream."""
        self._is_shared = copy._is_shared = True  # noqa: SLF001 - one of us, as below
        copy._n_forks, copy._is_deaf = self._n_forks, self._is_deaf  # noqa: SLF001
        if self._is_taken:
            copy._terms, copy._meter = self._terms, self._meter  # noqa: SLF001
            copy._take_in(is_server=self._is_server)  # noqa: SLF001

    def beat(self, now: float) -> float | None:
        """Sends a heartbeat if one is due; called by the guard."""
        guard, terms = shared_guard(thread=False), self._terms
        if terms is None or not isinstance(self._meter, Pulse):
            return None
        wanted = terms.policy or guard.policy
        if wanted.heartbeat is None or wanted.mode != "enforce":
            return None
        if self._is_shared:
            terms.fd = fd_of(self)  # its duplicate may be gone
        return self._meter.beat(self, guard, now)

    # --- Its end ---

    def let_go(self, why: str) -> None:
        """Releases the descriptor of a connection that the guard has ended, if that is safe; called by the guard.

        Not if the number was handed out: it may be registered in a selector. And not while
        bytes are unread. Then the next call of the program that finds nothing does it.
        """
        if self._end is None:
            self._end = make_end(self, why, is_eof=False)
        if self._known_to == NOBODY and not has_unread(self):
            self._release()

    def _found_eof(self) -> None:
        """Does what the policy wants when the peer's end was read; called for nothing in answer to a wish for bytes.

        Raises:
            ConnectionAbortedError: It was ended before, and that was told.
        """
        if self._end is not None:
            if self._is_spent and not self._end.is_eof:
                raise self._end.error()
            self._release()
        if not self._is_taken or self._end is not None or self._is_deaf:
            return
        connection = self.connection
        policy, facts = connection.policy, connection.facts
        if policy.mode != "enforce" or facts is None or facts.unread or is_to_connect(self, facts, self._terms):
            return
        if policy.half_close == "close" and facts.state in ENDED_BY_PEER:
            why, setting = "its peer has closed its side, and half_close is 'close'", "half_close"
            self._end_by_itself(why, Verdict(Action.SHUT_DOWN, Reason.HALF_CLOSED, setting, None, 0.0), is_eof=True)
        elif facts.state == _CLOSE and self._fault is None:
            verdict = Verdict(Action.SHUT_DOWN, Reason.DEAD, None, None, 0.0)
            self._end_by_itself("it is over", verdict, is_eof=True)
        elif facts.state == _CLOSE:
            self._end_for_fault(is_eof=True)

    def _is_past_end(self, error: OSError) -> bool:
        """Does what is to be done about an error; tells whether there is nothing but the end of the stream instead.

        Raises:
            ConnectionAbortedError: The guard has ended the connection, and this call came after that.
        """
        if error.errno in NO_ERROR:
            return False
        if self._end is not None:
            is_first = not self._is_spent and error.errno != errno.EBADF
            self._release()
            if is_first:
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
        if facts is not None and is_over_after(self, facts, error, has_books=books is not None):
            self._fault = f"{type(error).__name__}: {error}"
            if not facts.unread:
                self._end_for_fault(is_eof=False)

    def _end_for_fault(self, *, is_eof: bool) -> None:
        """Closes after a call that has failed, and tells of that; in `observe`, only tells."""
        terms, guard = self._terms, shared_guard()
        ending = guard.endings.of(self, terms, Reason.FAILED)
        verdict = ending.verdict()
        policy = self.connection.policy
        if policy.mode != "enforce":
            ending.tell(verdict, "closed", error=self._fault)
            return
        self._end_by_itself(f"it is over since a call failed with {self._fault}", verdict, is_eof=is_eof)
        if terms is not None and terms.verdict is verdict:  # else the guard was faster, and has told
            is_held = fd_of(self) >= 0 or getattr(self, "_orphan", None) is not None
            ending.tell(verdict, "shut_down" if is_held else "closed", error=self._fault)

    def _end_by_itself(self, why: str, verdict: Verdict, *, is_eof: bool) -> None:
        assert self._terms is not None  # noqa: S101 - it is guarded
        if self._terms.verdict is None:
            self._terms.verdict = verdict
        else:  # by the guard, just now: our call was woken by that
            why, is_eof = self.connection.ended_by or why, False
        self._end = make_end(self, why, is_eof=is_eof)
        self._release()

    def _release(self) -> None:
        """Closes the descriptor; while another thread is inside of a call, wakes that, and the next call closes.

        If the number was handed out, whoever has it would touch the next connection that gets it:
        then this only shuts down, and the program closes.
        """
        is_known = self._known_to == ANYBODY
        if fd_of(self) >= 0 and (is_known or self._n_busy or is_in_use(self)):
            self._is_spent = is_known
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
        guard = current_guard()  # and no other: to make one can fail, and this must not
        if guard is not None and self._is_taken and self._terms is not None and has_unread(self):
            policy = self._terms.policy or guard.policy
            if self._wants_drain(policy):
                guard.linger(self, policy)
        _ss.close(self)

    def _wants_drain(self, policy: Policy) -> bool:
        """Tells whether to close now would be a reset that nobody wants.

        Not if somebody else may hold the connection, to serve it: by a duplicate, by the number
        that was handed out, as to a child that is to inherit it, or in a process forked since it was
        opened. Our FIN would end it for them as well, and we would drop what they are to read.
        """
        if policy.mode != "enforce" or policy.drain_timeout is None:
            return False
        if self._is_shared or self._known_to == ANYBODY or self._n_forks != _n_forks:
            return False
        try:
            linger = _Raw.getsockopt(self, socket.SOL_SOCKET, socket.SO_LINGER, 8)
        except OSError:
            return False
        return not any(linger[: len(linger) // 2])  # else the program wants it otherwise
