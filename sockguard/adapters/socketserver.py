"""GuardedServerMixin: servers of `socketserver` and `http.server` that close each request, whatever its handler does.

What socketserver leaves open, as of Python 3.13, and this closes:

- A handler that keeps `self.rfile` or `self.wfile`, or whose `setup` or `finish` raises before they
  are closed: `request.close()` then only takes note, and the descriptor stays with the file.
- `verify_request` or `get_request` that raises: the exception goes through, the request is forgotten.
- A forked child that answers and leaves with unread bytes: the kernel sends a reset, and the
  peer can lose the tail of the answer. Here the child drains first, for `drain_timeout` at most.
- A handler that is stuck. That one the guard ends, by the clauses of the policy.

In the parent of a forking server a request is only closed, never shut down: its child serves it.
"""

import contextlib
import os
import socket
from typing import TYPE_CHECKING, Any

from sockguard._core.connection import Reason
from sockguard._core.policy import Policy
from sockguard._engine.current import shared_guard
from sockguard._engine.sockets.guarded_socket import GuardedSocket, guard_socket, keep_alive
from sockguard._engine.terms import check_policy, make_terms
from sockguard._kernel.backend import keeps_books
from sockguard._kernel.natives import monotonic
from sockguard._kernel.one_socket import fd_of
from sockguard._kernel.ready import has_unread, is_ready

if TYPE_CHECKING:
    from socketserver import BaseServer as _Server
else:
    _Server = object

__all__ = ["GuardedServerMixin"]


class GuardedServerMixin(_Server):
    """Guards the connections of a server of `socketserver`, and closes each when its handler returns or raises.

        class Server(sockguard.GuardedServerMixin, socketserver.ThreadingTCPServer):
            policy = sockguard.Policy(idle_timeout=60)

    It has to stand first. It works with threading, forking and plain servers, TCP and Unix,
    and with those of `http.server`; datagram servers are left as they are. Where the listener
    is wrapped by TLS, what it accepts is guarded on Linux only, and has no heartbeats.

    Args:
        policy: What is wanted of the connections, in place of the class's `policy`; None for what
            that says, and if it is None too, for what the process's guard wants.

    Raises:
        UsageError: `policy` is no policy.
    """

    policy: Policy | None = None
    socket: socket.socket
    _accepted: Any = None
    """What was accepted and not yet handed on."""
    _accepted_by = 0
    """The process that has accepted; not that of the constructor, as pre-forking servers make theirs before."""

    def __init__(self, *args: Any, policy: Policy | None = None, **kwargs: Any) -> None:
        if policy is not None:
            self.policy = policy
        check_policy(self.policy)
        super().__init__(*args, **kwargs)

    def server_activate(self) -> None:
        """Listens, as a guarded socket."""
        super().server_activate()
        self._guard_listener()

    def _guard_listener(self) -> None:
        # What is of another class, as an SSLSocket, was put there by the program and stays.
        if type(self.socket) is socket.socket and self.socket.type == socket.SOCK_STREAM:
            self.socket = guard_socket(self.socket, self.policy)
            keep_alive(self.socket)

    def get_request(self) -> Any:
        """Accepts a connection, which is guarded from here on."""
        self._guard_listener()  # if the program has put a socket of its own there
        request, address = super().get_request()
        if isinstance(request, socket.socket) and not isinstance(request, GuardedSocket) and keeps_books(request):
            guard = shared_guard()  # else nobody would see the bytes that move, and it would seem idle
            guard.adopt(request, request, True, self.socket, make_terms(self.policy, request, guard.policy))
        self._accepted, self._accepted_by = request, os.getpid()
        return request, address

    def _handle_request_noblock(self) -> None:
        """Handles one request; closes it if an exception goes through before anybody has taken it over."""
        self._accepted = None
        try:
            super()._handle_request_noblock()  # type: ignore[misc]
        except BaseException:
            if isinstance(self._accepted, socket.socket):
                self.shutdown_request(self._accepted)
            raise
        finally:
            self._accepted = None

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Has the handler handle a request; a forked child, which alone serves it, takes over its heart and clauses."""
        if isinstance(request, GuardedSocket) and os.getpid() != self._accepted_by:
            request._take_over()  # noqa: SLF001 - one of us
        super().finish_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Ends and closes a request, also if a file of it is open still."""
        try:
            if isinstance(request, GuardedSocket) and os.getpid() != self._accepted_by:
                self._drain(request)
            super().shutdown_request(request)
        finally:
            self._make_sure_that_it_is_closed(request)

    def close_request(self, request: Any) -> None:
        """Closes a request, also if a file of it is open still."""
        try:
            super().close_request(request)
        finally:
            self._make_sure_that_it_is_closed(request)

    def _make_sure_that_it_is_closed(self, request: Any) -> None:
        if not isinstance(request, socket.socket) or fd_of(request) < 0:
            return
        guarded = request if isinstance(request, GuardedSocket) else None
        terms = None if guarded is None else guarded._terms  # noqa: SLF001 - one of us
        ending = shared_guard().endings.of(request, terms, Reason.LEFT_OPEN)
        if guarded is None or guarded.connection.policy.mode != "observe":
            request._real_close()  # type: ignore[attr-defined]  # noqa: SLF001 - close() waits for files of makefile()
        if os.getpid() == self._accepted_by:  # a forked child ends now, with all that it has
            ending.tell(ending.verdict(), "closed")

    @staticmethod
    def _drain(request: GuardedSocket) -> None:
        """Drops, in a forked child, what would turn its close into a reset; then ends it for all who share it."""
        policy = request.connection.policy
        with contextlib.suppress(OSError, ValueError):
            if policy.mode != "enforce" or request.is_handed_out:  # who has it may serve it still
                return
            if policy.drain_timeout is not None and has_unread(request):
                request.shutdown(socket.SHUT_WR)
                _read_and_drop(request, policy.drain_timeout, policy.drain_bytes)
            request.shutdown(socket.SHUT_RDWR)


def _read_and_drop(request: socket.socket, seconds: float, n_bytes: int) -> None:
    """Reads until the peer's end, for so long and so many bytes at most."""
    until = monotonic() + seconds
    while n_bytes > 0 and is_ready(request, until):
        n_read = len(request.recv(min(n_bytes, 65536)))
        n_bytes = n_bytes - n_read if n_read else 0
