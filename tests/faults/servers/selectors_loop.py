"""A server of one loop over the standard library's selectors, with what a loop needs besides: timers, write buffers."""

import contextlib
import heapq
import itertools
import selectors
import socket
import ssl
import time
from collections.abc import Callable
from typing import Any

import common
from callbacks import STAY_OPEN, Conversation

NOT_NOW = (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
HIGH, LOW = 64 * 1024, 16 * 1024
"""Bytes in the write buffer at which the conversation is told to stop and to go on."""

selector = selectors.DefaultSelector()
timers: list[tuple[float, int, Callable[..., Any], tuple[Any, ...]]] = []
tickets = itertools.count(1)


def call_later(after: float, function: Callable[..., Any], *arguments: object) -> int:
    """Runs a function later; the ticket keeps equal times apart."""
    ticket = next(tickets)
    heapq.heappush(timers, (time.monotonic() + after, ticket, function, arguments))
    return ticket


class Transport:
    """A non-blocking socket with a write buffer; it waits only for what it has use for."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.buffer = bytearray()
        self.wants_input = True
        self.is_closing = self.is_closed = False
        self.conversation = Conversation(call_later)
        self.conversation.connection_made(self)
        self.watch()

    def get_extra_info(self, _: str) -> socket.socket:
        return self.sock

    def watch(self) -> None:
        """Registers for what is wanted now, and not at all when that is nothing."""
        events = (selectors.EVENT_READ if self.wants_input else 0) | (selectors.EVENT_WRITE if self.buffer else 0)
        known = self.sock in selector.get_map()
        if not known and events:
            selector.register(self.sock, events, self.ready)
        elif known and events:
            selector.modify(self.sock, events, self.ready)
        elif known:
            selector.unregister(self.sock)

    def pause_reading(self) -> None:
        self.wants_input = False
        self.is_closed or self.watch()

    def resume_reading(self) -> None:
        self.wants_input = True
        self.is_closed or self.watch()

    def write(self, data: bytes) -> None:
        if self.is_closed:
            return
        self.buffer += data
        self.flush()

    def flush(self) -> None:
        """Sends what goes; an error that is one closes."""
        try:
            with contextlib.suppress(*NOT_NOW):
                while self.buffer:
                    del self.buffer[: self.sock.send(self.buffer)]
        except OSError:
            self.abort()
            return
        if len(self.buffer) > HIGH:
            self.conversation.pause_writing()
        elif not self.conversation.has_room and len(self.buffer) < LOW:
            self.conversation.resume_writing()
        if self.is_closing and not self.buffer:
            self.abort()
        self.is_closed or self.watch()

    def close(self) -> None:
        self.is_closing = True
        self.pause_reading()
        self.write(b"")

    def abort(self) -> None:
        if not self.is_closed:
            self.is_closed = True
            if self.sock in selector.get_map():
                selector.unregister(self.sock)
            self.sock.close()
            self.conversation.connection_lost(None)

    def ready(self, events: int) -> None:
        """Does what the selector says can be done."""
        if events & selectors.EVENT_WRITE:
            self.flush()
        if events & selectors.EVENT_READ and not self.is_closed:
            self.read()

    def read(self) -> None:
        """Reads all there is, since TLS may have more than the selector knows."""
        try:
            with contextlib.suppress(*NOT_NOW):
                while self.wants_input and (data := self.sock.recv(65536)):
                    self.conversation.data_received(data)
                if self.wants_input:
                    self.pause_reading()
                    self.conversation.eof_received() is STAY_OPEN or self.close()
        except OSError:
            self.abort()


class Handshake:
    """A connection that does not speak TLS yet."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext) -> None:
        self.sock = context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        selector.register(self.sock, selectors.EVENT_READ, self.ready)

    def ready(self, _: int) -> None:
        """Goes on as far as the bytes reach; our side of it fits the send buffer."""
        try:
            with contextlib.suppress(*NOT_NOW):
                self.sock.do_handshake()
                selector.unregister(self.sock)
                Transport(self.sock).read()
        except OSError:
            selector.unregister(self.sock)
            self.sock.close()


def accept(listener: socket.socket, context: ssl.SSLContext | None) -> None:
    """Takes one connection; with no descriptor left it comes back a little later."""
    try:
        sock, _ = listener.accept()
    except OSError as error:
        if not common.is_full(error) and not isinstance(error, NOT_NOW):
            raise
        time.sleep(0.01)
        return
    sock.setblocking(False)
    Handshake(sock, context) if context else Transport(sock)


def run_timers() -> float:
    """Runs what is due; gives the seconds until more is."""
    while timers and timers[0][0] <= time.monotonic():
        _, _, function, arguments = heapq.heappop(timers)
        function(*arguments)
    return max(0.0, timers[0][0] - time.monotonic()) if timers else 1.0


def main() -> None:
    """Loops for ever; what fails is noted and its connection forgotten."""
    options = common.start()
    context = common.tls_context(options)
    listener = common.listen(options)
    listener.setblocking(False)
    selector.register(listener, selectors.EVENT_READ, lambda _: accept(listener, context))
    while True:
        for key, events in selector.select(run_timers()):
            try:
                key.data(events)
            except RuntimeError as error:
                common.ERRORS.append(error)


if __name__ == "__main__":
    main()
