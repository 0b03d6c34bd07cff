"""What is to be done with each piece of data, for a socket of which the kernel keeps no books: it is counted."""

import _socket
import contextlib
import socket
from collections.abc import Callable
from typing import Any

from sockguard._core.books import PIECE, Books
from sockguard._engine.sockets.in_use import calls_into_c
from sockguard._engine.sockets.receiving import Args, Receiving
from sockguard._engine.terms import Terms
from sockguard._kernel.natives import monotonic
from sockguard._kernel.ready import is_ready

__all__ = ["Meter"]

_Raw = _socket.socket
_send, _timeout_of = _Raw.send, _Raw.gettimeout
_now = monotonic


class Meter:
    """Counts the bytes of one socket, which each method is given and none keeps."""

    __slots__ = ("_books", "_terms")

    def __init__(self, terms: Terms) -> None:
        self._terms = terms
        self._books: Books | None = terms.books

    @calls_into_c
    def receive(self, sock: Any, how: Receiving, args: Args) -> Any:
        """Receives as the application asked for, and counts it.

        Raises:
            OSError: As the call itself.
        """
        result = how.call(sock, *args)
        if not how.flags(args) & socket.MSG_PEEK:
            self._count(how.n_of(result), how.room(args))
        return result

    def _count(self, n: int, room: int) -> None:
        if self._books is not None and n:
            self._books.received(n, _now())
        elif self._books is not None and room:
            self._books.eof(_now())

    @calls_into_c
    def send(self, sock: Any, call: Callable[..., int], args: Args) -> int:
        """Sends as the application asked for, and counts it.

        Raises:
            OSError: As the call itself.
        """
        with self._sending(sock):
            n = call(sock, *args)
            self._sent(n)
        return n

    @calls_into_c
    def send_all(self, sock: Any, data: Any, flags: int) -> None:
        """Sends all, a piece at a time, so that the books show that it moves. Its time-out holds for all of it.

        Raises:
            OSError: As `sendall`; how much was sent is not known then either.
        """
        with memoryview(data).cast("B") as view, self._sending(sock):
            timeout, at = _timeout_of(sock), 0
            until = _now() + timeout if timeout else None
            while at < len(view):
                if timeout and not is_ready(sock, until, to_write=True):
                    raise TimeoutError("timed out")
                n = _send(sock, view[at : at + PIECE], flags)
                self._sent(n)
                at += n

    def _sending(self, sock: Any) -> contextlib.AbstractContextManager[object]:  # noqa: ARG002 - for who overrides it
        """Is entered while the application sends."""
        return _NO_GATE

    def _sent(self, n: int) -> None:
        if self._books is not None:
            self._books.sent(n, _now())


_NO_GATE = contextlib.nullcontext()
