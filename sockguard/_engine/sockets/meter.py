"""What is to be done with each piece of data, for a socket of which the kernel keeps no books: it is counted."""

import _socket
import contextlib
import socket
from collections.abc import Callable, Iterable
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
_sendmsg: Any = getattr(_Raw, "sendmsg", None)
_GiveUp: type[Exception] = socket._GiveupOnSendfile  # type: ignore[attr-defined]  # noqa: SLF001 - what sendfile raises
_now = monotonic
DONT_WAIT: int = getattr(socket, "MSG_DONTWAIT", 0)
"""0 on Windows, which lacks it."""
UNCOUNTED = socket.MSG_PEEK | getattr(socket, "MSG_ERRQUEUE", 0)
"""Flags with which no byte of the stream is taken."""


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
        if not how.flags(args) & UNCOUNTED:
            self._count(how.n_of(result), how.room(args))
        return result

    def _count(self, n: int, room: int) -> None:
        if self._books is not None and n:
            self._books.received(n, _now())
        elif self._books is not None and room:
            self._books.eof(_now())

    @calls_into_c
    def send(self, sock: Any, call: Callable[..., int], data: Any, args: Args, flags: int) -> int:
        """Sends as the application asked for, and counts it: with books, a piece at a time.

        Args:
            sock: The socket.
            call: What sends.
            data: Its first argument.
            args: The others.
            flags: Those among `args`.

        Raises:
            OSError: As the call itself.
        """
        with self._sending(sock, flags):
            if self._books is None or (n_bytes := memoryview(data).nbytes) <= PIECE or flags & socket.MSG_OOB:
                n = call(sock, data, *args)
                self._sent(n)
                return n
            with memoryview(data).cast("B") as view:
                n = call(sock, view[:PIECE], *args)
                self._sent(n)
                is_to_go_on = n == PIECE < n_bytes and not flags & DONT_WAIT and _timeout_of(sock) is None
                return n + self._send_rest(sock, view[n:], flags) if is_to_go_on else n

    @calls_into_c
    def _send_rest(self, sock: Any, view: memoryview, flags: int) -> int:
        """Sends on as a call does that may wait for ever; an error is for the next call, as some was sent."""
        at = 0
        with contextlib.suppress(OSError):
            while at < len(view):
                n = _send(sock, view[at : at + PIECE], flags)
                self._sent(n)
                at += n
        return at

    @calls_into_c
    def send_message(self, sock: Any, buffers: Iterable[Any], args: Args, flags: int) -> int:
        """Sends several buffers as one: see `send`. What goes beside the bytes goes with the first of them.

        Raises:
            OSError: As `sendmsg`.
        """
        if self._books is not None and sum(memoryview(each).nbytes for each in buffers) > PIECE:
            return self.send(sock, _send_one, b"".join(buffers), args, flags)
        with self._sending(sock, flags):
            n = int(_sendmsg(sock, buffers, *args))
            self._sent(n)
        return n

    def send_file(self, sock: Any, call: Callable[..., int], file: Any, offset: int, count: int | None) -> int:
        """Sends a file, with books a piece at a time.

        Args:
            sock: The socket.
            call: What sends a file by the system, of the arguments that follow.
            file: The file.
            offset: Where to begin.
            count: How many bytes; None: to its end.

        Raises:
            OSError: As `call`.
        """
        with self._sending(sock, 0):
            if self._books is None:
                n = call(file, offset, count)
                self._sent(n)
                return n
            return self._send_file_pieces(call, file, offset, count)

    def _send_file_pieces(self, call: Callable[..., int], file: Any, offset: int, count: int | None) -> int:
        n_sent = 0
        while True:
            piece = PIECE if count is None else min(PIECE, count - n_sent)
            try:
                n = call(file, offset + n_sent, piece)
            except _GiveUp as error:
                if not n_sent:
                    raise
                raise error.args[0] from None  # else all of it would be sent again, by other means
            self._sent(n)
            n_sent += n
            if n < piece or n_sent == count:
                return n_sent

    @calls_into_c
    def send_all(self, sock: Any, data: Any, flags: int) -> None:
        """Sends all, a piece at a time, so that the books show that it moves. Its time-out holds for all of it.

        Raises:
            OSError: As `sendall`; how much was sent is not known then either.
        """
        timeout, at = _timeout_of(sock), 0
        until = _now() + timeout if timeout else None
        with memoryview(data).cast("B") as view, self._sending(sock, flags):
            while at < len(view):
                if timeout and not is_ready(sock, until, to_write=True):
                    raise TimeoutError("timed out")
                n = _send(sock, view[at : at + PIECE], flags)
                self._sent(n)
                at += n

    def _sending(self, sock: Any, flags: int) -> contextlib.AbstractContextManager[object]:  # noqa: ARG002 - for who overrides it
        """Is entered while the application sends."""
        return _NO_GATE

    def _sent(self, n: int) -> None:
        if self._books is not None:
            self._books.sent(n, _now())


_NO_GATE = contextlib.nullcontext()


@calls_into_c
def _send_one(sock: Any, data: Any, *args: Any) -> int:
    return int(_sendmsg(sock, [data], *args))
