"""Who looks after the connections of a selector? Takes them into the guard, and ends what their handlers leave open.

All of it happens on the thread that calls `select()`, when the inner selector has returned and
the handlers are not told yet. What a handler is not told of is not looked at.
"""

import _socket
import contextlib
import socket
import sys
from collections.abc import Iterable, Iterator
from selectors import SelectorKey
from types import CodeType, FrameType
from typing import Any, NamedTuple

from sockguard._core.decide import Action, Reason, Verdict
from sockguard._core.event_texts import describe_end
from sockguard._core.facts import TcpState
from sockguard._core.inference import opened_by_us
from sockguard._core.left_open import Fate, Patience, fate_of, look_again, rest_of
from sockguard._core.policy import Policy
from sockguard._engine.guard import Guard
from sockguard._engine.record import Record
from sockguard._engine.sockets.guarded import Guarded
from sockguard._engine.terms import CommonTerms
from sockguard._kernel.backend import keeps_books
from sockguard._kernel.hung_up import HungUp, find_hung_up, read_end, seen_through
from sockguard._kernel.one_socket import fd_of, read_cookie, read_facts
from sockguard.adapters.selectors.farewell import release

__all__ = ["Caretaker", "Finding"]

_Raw = _socket.socket
MAX_LINES = 1024
"""Lines that are remembered; a program that compiles code for each connection must not grow for it."""
_SOCKET, _ACCEPTS = socket.SOL_SOCKET, getattr(socket, "SO_ACCEPTCONN", 0)


class Finding(NamedTuple):
    """A connection that something is to be done about."""

    key: SelectorKey
    fate: Fate
    since: float
    """When it was first found like that."""
    is_half_closed: bool = False
    """Its peer can still receive."""
    unread: int = 0
    is_told: bool = False
    """The guard has ended it, and said so."""
    rest: float = 0.0
    """Seconds for which it is not to be reported."""


class _Line:
    """A line of the program. All that one line registers is taken to have one site, which is found faster so."""

    __slots__ = ("__weakref__", "code")

    def __init__(self, code: CodeType) -> None:
        self.code = code


class _Lines:
    """The lines that have registered something."""

    def __init__(self) -> None:
        self._known: dict[int, _Line] = {}

    def of(self, frame: FrameType) -> _Line:
        """Gives what stands for the line at which a frame is."""
        address = id(frame.f_code) + frame.f_lasti
        line = self._known.get(address)
        if line is None or line.code is not frame.f_code:
            if len(self._known) >= MAX_LINES:
                self._known.clear()
            line = self._known[address] = _Line(frame.f_code)
        return line


class _Number:
    """Stands for a connection that the program has registered by its number, or by an object that is no socket."""

    __slots__ = ("__weakref__", "_fd", "cookie")

    def __init__(self, fd: int, cookie: int | None) -> None:
        self._fd, self.cookie = fd, cookie

    def fileno(self) -> int:
        """Tells the number."""
        return self._fd


class Caretaker:
    """Looks after the connections of one selector.

    Args:
        policy: What is wanted of them; None for what the guard wants of all.
    """

    def __init__(self, guard: Guard, policy: Policy | None) -> None:
        self._guard = guard
        self._records, self._announce = guard.registry.by_fd, guard.adopt
        self._terms = CommonTerms(policy)
        """Of all its connections: the program has no door by which it could say anything of a single one."""
        self._ports: set[int] = set()
        """Of its listeners: what has such a port of ours was accepted."""
        self._line_of = _Lines().of
        self._numbers: dict[int, _Number] = {}
        self._patience: dict[int, tuple[object, Patience]] = {}

    def welcome(self, fileobj: Any, fd: int) -> None:
        """Takes a connection into the guard, if it is one; called by what the program calls. Never raises."""
        try:
            line = self._line_of(sys._getframe(2))  # noqa: SLF001 - the one door to the stack that is fast
            if not isinstance(fileobj, _Raw):
                self._welcome_number(fd, line)
            elif keeps_books(fileobj) and not isinstance(fileobj, Guarded):
                self._adopt(fileobj, fileobj, fd, line)
        except OSError:
            pass  # closed meanwhile, or no socket
        except Exception as error:  # noqa: BLE001 - nothing of ours may reach the application
            self._guard.failed("selector", error)

    def _welcome_number(self, fd: int, line: _Line) -> None:
        with seen_through(fd) as sock:
            if sock.getsockopt(_SOCKET, socket.SO_TYPE) != socket.SOCK_STREAM:
                return
            cookie, known = read_cookie(sock), self._numbers.get(fd)
            if known is None or known.cookie != cookie:
                known = self._numbers[fd] = _Number(fd, cookie)
            if keeps_books(sock):
                self._adopt(known, sock, fd, line)

    def _adopt(self, owner: Any, sock: _socket.socket, fd: int, line: _Line) -> None:
        record = self._records.get(fd)
        if record is not None and record() is owner and (self._terms.policy is None or record.terms is self._terms):
            return  # registered again, or announced by an adapter
        port, is_server = sock.getsockname()[1], True
        if port not in self._ports:
            if sock.getsockopt(_SOCKET, _ACCEPTS):
                self._ports.add(port)
                return
            facts = read_facts(sock)
            is_server = facts is not None and opened_by_us(facts) is False
        is_ours = self._terms.policy is not None or record is None  # what the program has said of it stays
        self._announce(owner, sock, is_server, line, self._terms if is_ours else None)

    def look(self, ready: Iterable[SelectorKey], now: float) -> Iterator[Finding]:
        """Yields those of the connections that are ready about which something is to be done.

        Their handlers are told afterwards; so one that is found again as it was before was told in between.
        """
        by_fd = {key.fd: key for key in ready}
        hung_up = find_hung_up(by_fd)
        if self._patience:
            for fd in by_fd.keys() - {one.fd for one in hung_up}:
                self.forget(fd)
        for one in hung_up:
            finding = self._judge(by_fd[one.fd], one, now)
            if finding is not None and finding.fate is not Fate.KEEP:
                yield finding

    def _judge(self, key: SelectorKey, hung_up: HungUp, now: float) -> Finding | None:
        if self.has_closed_itself(key):
            return Finding(key, Fate.CLOSE, now, is_told=True)
        try:
            with self._lent(key) as sock:
                activity, record = read_end(sock, hung_up), self._record_of(key.fd, sock)
        except OSError:
            return None  # closed, or the number is another connection by now
        if activity is None:
            return None
        activity = activity._replace(unread=activity.unread + _pending(key.fileobj))
        owner, before = self._patience.get(key.fd, (None, None))
        patience = look_again(before if owner is key.fileobj else None, activity, key.events, now)
        self._patience[key.fd] = (key.fileobj, patience)
        is_ended = record is not None and record.is_ended_by_guard
        fate = fate_of(activity, patience, self._policy_of(key.fileobj), now, is_ended=is_ended)
        is_half_closed = activity.state == TcpState.CLOSE_WAIT
        return Finding(key, fate, patience.since, is_half_closed, activity.unread, is_ended, rest_of(patience))

    @contextlib.contextmanager
    def _lent(self, key: SelectorKey) -> Iterator[_socket.socket]:
        """Gives a socket to look at the very connection that was registered.

        Raises:
            OSError: It is closed, or the number is another connection's by now.
        """
        fileobj: Any = key.fileobj
        if isinstance(fileobj, _Raw):
            if fd_of(fileobj) != key.fd:
                raise OSError
            yield fileobj
            return
        known = self._numbers.get(key.fd)
        with seen_through(key.fd) as sock:
            if known is not None and known.cookie != read_cookie(sock):
                raise OSError
            yield sock

    def _record_of(self, fd: int, sock: _socket.socket) -> Record | None:
        record = self._records.get(fd)
        return record if record is not None and record.cookie == read_cookie(sock) else None

    def _policy_of(self, fileobj: Any) -> Policy:
        return fileobj.connection.policy if isinstance(fileobj, Guarded) else self._terms.policy or self._guard.policy

    def has_closed_itself(self, key: SelectorKey) -> bool:
        """Tells whether a registered object is a guarded socket that has closed itself since."""
        return isinstance(key.fileobj, Guarded) and fd_of(key.fileobj) < 0

    def has_ended(self, key: SelectorKey) -> bool:
        """Tells whether the guard has ended a connection."""
        record = self._records.get(key.fd)
        if record is None or not record.is_ended_by_guard:
            return False
        with contextlib.suppress(OSError), self._lent(key) as sock:
            return self._record_of(key.fd, sock) is record
        return False

    def is_there(self, key: SelectorKey) -> bool:
        """Tells whether a number is still the connection that was registered."""
        with contextlib.suppress(OSError), self._lent(key):
            return True
        return False

    def rests(self, key: SelectorKey) -> None:
        """Takes note that a connection is not reported for a while."""
        owner, patience = self._patience[key.fd]
        self._patience[key.fd] = (owner, patience._replace(n_rests=patience.n_rests + 1))

    def forget(self, fd: int) -> None:
        """Takes note that a connection is not what it was when it was looked at."""
        self._patience.pop(fd, None)

    def end(self, finding: Finding, now: float) -> None:
        """Closes a connection that is not registered any more, and tells of it; never raises."""
        key = finding.key
        self.forget(key.fd)
        cookie, ending = None, None
        reason, setting, limit = Reason.DEAD, None, None
        if finding.is_half_closed:
            reason, setting = Reason.HALF_CLOSED, "half_close"
        elif finding.unread:  # without, it is closed as soon as its handler knows
            setting, limit = "fin_timeout", self._policy_of(key.fileobj).fin_timeout
        verdict = Verdict(Action.SHUT_DOWN, reason, setting, limit, now - finding.since)
        with contextlib.suppress(OSError), self._lent(key) as sock:
            cookie = read_cookie(sock)
            ending = self._guard.endings.of(sock, None, reason, self._record_of(key.fd, sock))
        if isinstance(key.fileobj, Guarded):
            key.fileobj.let_go(describe_end(*verdict[1:]))
        try:
            is_closed = release(key, cookie)
        except Exception as error:  # noqa: BLE001 - of the program's own close(): select() cannot be where it comes out
            self._guard.failed("close() of the program", error)
            is_closed = False
        self._numbers.pop(key.fd, None)
        if ending is not None and not finding.is_told:
            ending.tell(verdict, "closed" if is_closed else "shut_down", unread=finding.unread)


def _pending(fileobj: Any) -> int:
    """Counts the bytes that TLS has taken from the kernel and the application has not read."""
    try:
        return int(fileobj.pending()) if isinstance(fileobj, _Raw) and hasattr(fileobj, "pending") else 0
    except (OSError, ValueError):
        return 0  # it speaks no TLS any more
