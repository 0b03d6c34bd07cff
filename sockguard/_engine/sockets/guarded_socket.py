"""GuardedSocket: a `socket.socket` that closes itself when its connection is over, and that the guard watches.

What it adds is done where the original gave nothing or failed. A call that moved bytes costs
one Python call more than that of the original, and no more. All else is the original's.
"""

import _socket
import contextlib
import inspect
import socket
import sys
from typing import Any, Self

from sockguard._core.facts import TcpState
from sockguard._core.inference import opened_by_us
from sockguard._core.policy import Policy
from sockguard._engine.accepting import UNDER_WAY, shed
from sockguard._engine.current import shared_guard
from sockguard._engine.sockets.in_use import calls_into_c
from sockguard._engine.sockets.named import Named
from sockguard._engine.terms import check_policy
from sockguard._kernel.activity import was_ever_connected
from sockguard._kernel.backend import keeps_books
from sockguard._kernel.keepalive import apply_keepalive
from sockguard._kernel.one_socket import fd_of, read_facts
from sockguard._kernel.own_fds import NO_DESCRIPTOR
from sockguard._kernel.portable import is_connected
from sockguard._kernel.tcp_info import read_tcp_info
from sockguard.errors import UsageError

__all__ = ["GuardedSocket", "guard_socket", "keep_alive"]

_Raw = _socket.socket
_accept = _Raw._accept  # type: ignore[attr-defined]  # noqa: SLF001 - what socket.accept calls
_connect = _Raw.connect
_connect_ex, _shutdown = _Raw.connect_ex, _Raw.shutdown
# The descriptors of the C class: those of `socket.socket` make an Enum of each number, which costs three times as much.
_family_of, _type_of, _proto_of = _Raw.family.__get__, _Raw.type.__get__, _Raw.proto.__get__
_timeout_of, _init = _Raw.gettimeout, socket.socket.__init__
_default_timeout = socket.getdefaulttimeout

DEAFENING = (socket.SHUT_RD, socket.SHUT_RDWR)
_NOT_YET = (TcpState.CLOSE, TcpState.LISTEN)

if not issubclass(socket.socket, _Raw):  # gevent and eventlet put a class of another kind there
    msg = (
        f"socket.socket is {socket.socket.__module__}.{socket.socket.__qualname__}, and GuardedSocket cannot build on "
        "that: with gevent or eventlet use sockguard.install()"
    )
    raise UsageError(msg)


class GuardedSocket(Named):
    """A `socket.socket` whose connection the guard of this process watches, by a policy of its own.

    It is to be used like the original, and is one. In addition:

    - what it accepts, what it connects to and what `dup` gives is guarded by the same policy;
    - a call that finds the connection over closes it. With `half_close="close"` the peer's
      EOF is enough for that. The call itself gives what the kernel gave, and so does
      another recv() after an EOF. Any other later call raises ConnectionAbortedError, saying why;
    - close() with unread bytes lets the guard drain them (`drain_timeout`), so that the peer
      gets the end of our answer, and not a reset instead.

    Listeners and datagram sockets behave as ever. With a heartbeat, no call waits in the kernel, so SO_RCVTIMEO
    has no effect then: `settimeout()` has.

    Args:
        family: As for `socket.socket`, like the next three.
        policy: What is wanted of the connection, and of those that it accepts; None for
            what the process's guard wants.

    Raises:
        UsageError: `policy` is no policy.
        PolicyError: A `SOCKGUARD_*` variable makes no sense, and this is what makes the guard.
        OSError: As `socket.socket`.
    """

    __slots__ = ()

    def __init__(
        self,
        family: int = -1,
        type: int = -1,  # noqa: A002 - as the original
        proto: int = -1,
        fileno: int | None = None,
        *,
        policy: Policy | None = None,
    ) -> None:
        check_policy(policy)
        shared_guard()  # first, so that nothing is taken over if there is none to be had
        self._begin(policy)
        _init(self, family, type, proto, fileno)
        if fileno is not None and _is_connection(self):
            self._take_in(is_server=_was_accepted(self))

    @property
    def last_update(self) -> float | None:
        """When the last byte moved (`time.monotonic()`): see `GuardedConnection`, as for the next two."""
        return self.connection.last_update

    @property
    def bytes_received(self) -> int | None:
        """Bytes that arrived."""
        return self.connection.bytes_received

    @property
    def bytes_sent(self) -> int | None:
        """Bytes that were sent."""
        return self.connection.bytes_sent

    def accept(self) -> tuple["GuardedSocket", Any]:
        """Accepts a connection, which is guarded by the same policy.

        Raises:
            OSError: As `socket.accept`.
        """
        guard = shared_guard()
        try:
            sock, address = self._accept_one()
            if guard.descriptors.sheds_dead:
                sock, address = shed(guard, self, (sock, address), GuardedSocket._accept_one)
        except OSError as error:
            if error.errno in NO_DESCRIPTOR:
                guard.was_refused()
            raise
        sock._take_in(is_server=True, listener=self)  # noqa: SLF001 - one of us
        return sock, address

    def _accept_one(self) -> tuple["GuardedSocket", Any]:
        fd, address = _accept(self)
        sock = GuardedSocket.__new__(GuardedSocket)
        sock._begin(self._policy)  # noqa: SLF001
        _init(sock, _family_of(self), _type_of(self), _proto_of(self), fd)
        if _default_timeout() is None and _timeout_of(self):
            sock.setblocking(True)  # as the original, against flags that some systems hand on
        return sock, address

    @calls_into_c
    def connect(self, address: Any, /) -> None:
        """Connects as `socket.connect`."""
        try:
            _connect(self, address)
        except (BlockingIOError, InterruptedError):
            self._take_in_once()
            raise
        self._take_in_once()

    @calls_into_c
    def connect_ex(self, address: Any, /) -> int:
        """Connects as `socket.connect_ex`."""
        number = _connect_ex(self, address)
        if number in UNDER_WAY:
            self._take_in_once()
        return number

    def _take_in_once(self) -> None:
        if not self._is_taken:  # a connect() that does not wait is called until it is through
            self._take_in(is_server=False)

    def _take_over(self) -> None:
        """Announces a connection anew in this forked child: for who knows that only the child goes on."""
        if self._is_taken:
            self._take_in(is_server=self._is_server)

    @calls_into_c
    def shutdown(self, how: int, /) -> None:
        """Shuts down as `socket.shutdown`; what sockguard has ended already is left at that."""
        try:
            _shutdown(self, how)
        except OSError:
            if self._end is None:
                raise
        self._is_deaf = self._is_deaf or how in DEAFENING

    def dup(self) -> Self:
        """Duplicates as `socket.dup`; the duplicate is guarded by the very terms of this one.

        Raises:
            OSError: As `socket.dup`; sockguard has ended the connection.
        """
        try:
            fd = socket.dup(fd_of(self))
        except OSError as error:
            raise self._too_late(error) from None
        kind, known = self.__class__, (_family_of(self), _type_of(self), _proto_of(self))
        if kind.__init__ is not GuardedSocket.__init__ and _can_be_made_of(kind, known, fd):
            sock = kind(*known, fileno=fd)  # as the original
        else:
            sock = kind.__new__(kind)
            sock._begin(self._policy)  # noqa: SLF001 - one of us
            _init(sock, *known, fd)
        sock._policy = self._policy  # noqa: SLF001
        sock.settimeout(_timeout_of(self))
        self._share(sock)
        return sock


def _can_be_made_of(kind: type[GuardedSocket], known: tuple[int, int, int], fd: int) -> bool:
    """Tells whether a class of the program's takes the arguments with which the original duplicates.

    Not by trying: one that fails may have taken the descriptor before.
    """
    try:
        inspect.signature(kind).bind(*known, fileno=fd)
    except (TypeError, ValueError):
        return False
    return True


def _is_connection(sock: Any) -> bool:
    """Tells whether a socket has a peer, or is about to get one."""
    if _type_of(sock) != socket.SOCK_STREAM:
        return False
    with contextlib.suppress(OSError):
        if not keeps_books(sock):
            return is_connected(sock)
        return read_tcp_info(sock).state not in _NOT_YET or was_ever_connected(sock)
    return False


def _was_accepted(sock: Any) -> bool:
    """Tells whether a connection was accepted; of one of which that is not known, it says so."""
    with contextlib.suppress(OSError):
        if not keeps_books(sock):  # what was accepted has the name of its listener
            return _family_of(sock) != getattr(socket, "AF_UNIX", None) or bool(_Raw.getsockname(sock))
        if read_tcp_info(sock).state == TcpState.SYN_SENT:
            return False
        if (facts := read_facts(sock)) is not None:
            return not opened_by_us(facts)
    return True


def guard_socket(sock: socket.socket, policy: Policy | None = None) -> GuardedSocket:
    """Makes a GuardedSocket of a plain socket, which is of no use afterwards: its descriptor is taken over.

    Time-out, blocking mode and all options stay, and so does what it is: a connection, a
    listener or neither yet. One that is guarded already gets the policy instead of its own.
    For TLS, guard the plain socket and wrap that: the guard goes on by its descriptor.

    Args:
        sock: An open `socket.socket`.
        policy: What is wanted of it; None for what the process's guard wants.

    Raises:
        UsageError: It is no socket, closed, under TLS, or in use by a file of its makefile().
        PolicyError: A `SOCKGUARD_*` variable makes no sense. The socket stays as it is, as with all of these.
    """
    check_policy(policy)
    _refuse_others(sock)
    if isinstance(sock, GuardedSocket):
        sock._set_policy(policy)  # noqa: SLF001
        return sock
    shared_guard()  # before the descriptor is taken
    family, kind, proto, timeout = sock.family, sock.type, sock.proto, sock.gettimeout()
    guarded = GuardedSocket(family, kind, proto, sock.detach(), policy=policy)
    guarded.settimeout(timeout)
    return guarded


def _refuse_others(sock: object) -> None:
    ssl = sys.modules.get("ssl")
    if ssl is not None and isinstance(sock, ssl.SSLSocket):
        raise UsageError("an SSLSocket cannot be guarded: guard first, context.wrap_socket(guard_socket(sock), ...)")
    if not isinstance(sock, socket.socket):
        msg = f"guard_socket({sock!r}) makes no sense: give a socket.socket"
        raise UsageError(msg)
    if fd_of(sock) < 0:
        msg = f"guard_socket({sock!r}) makes no sense: it is closed"
        raise UsageError(msg)
    if sock._io_refs > 0 and not isinstance(sock, GuardedSocket):  # type: ignore[attr-defined]  # noqa: SLF001
        msg = f"guard_socket({sock!r}) would break the file that its makefile() gave: guard it before"
        raise UsageError(msg)


def keep_alive(listener: GuardedSocket) -> None:
    """Sets keepalive on a listener as its policy has it, so that what it accepts has it from the kernel."""
    wanted = listener.connection.policy
    if wanted.keepalive is not None and wanted.mode == "enforce":
        with contextlib.suppress(OSError):  # a sandbox refuses; the guard will try with each connection
            apply_keepalive(listener, wanted.keepalive)
