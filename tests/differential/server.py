"""The servers of the differential test, in four manners: `python server.py threads|selectors|streams|protocol`.

Each offers all services, on a port each. It prints the ports as one line of JSON; when its
standard input ends it waits until its connections are gone, prints what it saw of each,
and ends. A connection is named by the client's address, which tells more than its first
bytes could: some clients never send any.
"""

import asyncio
import collections
import contextlib
import hashlib
import heapq
import itertools
import json
import logging
import selectors
import socket
import sys
import threading
import time
from collections.abc import Callable

from differential.services import CLOSE, SERVICES, Action, Service

BACKLOG = 4096
ENOUGH = 1 << 18
"""Bytes that wait to be sent, from which on no more are read."""
SETTLED_AFTER = 20.0
"""Seconds after which a connection that is still open when all clients have left is reported as such."""


class Ledger:
    """What this server saw of each connection."""

    def __init__(self) -> None:
        self.seen: dict[str, str] = {}
        self.open: dict[str, Sight] = {}

    def begin(self, address: tuple[str, int]) -> "Sight":
        """Opens the account of a connection."""
        sight = self.open[address[0]] = Sight(self, address[0])
        return sight


class Sight:
    """One connection as the server sees it: how much was read, and how that ended."""

    def __init__(self, ledger: Ledger, name: str) -> None:
        self._ledger, self._name = ledger, name
        self._digest, self._count = hashlib.blake2b(digest_size=6), 0
        self._end = ""

    def read(self, data: bytes) -> None:
        """Notes bytes."""
        self._digest.update(data)
        self._count += len(data)

    def end(self, how: str) -> None:
        """Notes the FIN, the RST or our own close, whichever is first."""
        self._end = self._end or how

    def close(self) -> None:
        """Closes the account."""
        self._ledger.open.pop(self._name, None)
        self._ledger.seen[self._name] = str(self)

    def __str__(self) -> str:
        return f"{self._count}:{self._digest.hexdigest()}:{self._end or 'error'}"


# A thread for each connection, blocking calls.


def serve_with_threads(listeners: dict[str, socket.socket], ledger: Ledger) -> None:
    """Accepts in a thread per port, serves in a thread per connection."""
    acceptors = [
        threading.Thread(target=_accept_for_threads, args=(listener, SERVICES[name], ledger))
        for name, listener in listeners.items()
    ]
    for acceptor in acceptors:
        acceptor.daemon = True
        acceptor.start()
    STOP.wait()


def _accept_for_threads(listener: socket.socket, service: type[Service], ledger: Ledger) -> None:
    while True:
        connection, address = listener.accept()
        threading.Thread(target=_serve_one, args=(connection, service(), ledger.begin(address)), daemon=True).start()


def _serve_one(connection: socket.socket, service: Service, sight: Sight) -> None:
    with connection:
        try:
            if _act(connection, service.opened()):
                _answer(connection, service, sight)
            else:
                sight.end("closed")
        except OSError:
            sight.end("reset")
    sight.close()


def _answer(connection: socket.socket, service: Service, sight: Sight) -> None:
    while data := connection.recv(65536):
        sight.read(data)
        if not _act(connection, service.received(data)):
            sight.end("closed")
            return
    sight.end("eof")
    _act(connection, service.ended())


def _act(connection: socket.socket, actions: collections.abc.Iterator[Action]) -> bool:
    for action in actions:
        if action is CLOSE:
            return False
        if isinstance(action, float):
            time.sleep(action)
        else:
            connection.sendall(action)
    return True


# One loop over a selector, non-blocking calls.


class Loop:
    """A selector and a heap of timers."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()

    def want(self, sock: socket.socket, events: int, callback: Callable[[int], None]) -> None:
        """Watches a socket for these events; for none, it is not watched at all."""
        known = sock in self._selector.get_map()
        if not events:
            if known:
                self._selector.unregister(sock)
        elif known:
            self._selector.modify(sock, events, callback)
        else:
            self._selector.register(sock, events, callback)

    def call_later(self, seconds: float, callback: Callable[[], None]) -> None:
        """Calls back after a while."""
        heapq.heappush(self._timers, (time.monotonic() + seconds, next(self._numbers), callback))

    def turn(self) -> None:
        """Goes round once."""
        timeout = min(max(self._timers[0][0] - time.monotonic(), 0), 0.2) if self._timers else 0.2
        for key, events in self._selector.select(timeout):
            key.data(events)
        while self._timers and self._timers[0][0] <= time.monotonic():
            heapq.heappop(self._timers)[2]()


class Channel:
    """One connection of the selector loop."""

    def __init__(self, loop: Loop, sock: socket.socket, service: Service, sight: Sight) -> None:
        self._loop, self._sock, self._service, self._sight = loop, sock, service, sight
        self._todo = collections.deque(service.opened())
        self._out = bytearray()
        self._is_waiting = self._has_ended = self._is_closed = False
        self._guarded(self._work)

    def _guarded(self, step: Callable[[], None]) -> None:
        if self._is_closed:
            return
        try:
            step()
        except (BlockingIOError, InterruptedError):
            pass
        except OSError:
            self._close("reset")
        if not self._is_closed:
            self._loop.want(self._sock, self._interest(), self._on_event)

    def _interest(self) -> int:
        reading = not (self._has_ended or self._todo or len(self._out) > ENOUGH)
        return (selectors.EVENT_READ if reading else 0) | (selectors.EVENT_WRITE if self._out else 0)

    def _on_event(self, events: int) -> None:
        if events & selectors.EVENT_READ:
            self._guarded(self._read)
        if events & selectors.EVENT_WRITE:
            self._guarded(self._work)

    def _read(self) -> None:
        if data := self._sock.recv(65536):
            self._sight.read(data)
            self._todo.extend(self._service.received(data))
        else:
            self._has_ended = True
            self._sight.end("eof")
            self._todo.extend(self._service.ended())
        self._work()

    def _work(self) -> None:
        while self._todo and not self._is_waiting:
            self._do(self._todo.popleft())
            if self._is_closed:
                return
        if self._out:
            del self._out[: self._sock.send(self._out)]
        if self._has_ended and not (self._todo or self._out or self._is_waiting):
            self._close("eof")

    def _do(self, action: Action) -> None:
        if action is CLOSE:
            self._sock.setblocking(True)
            self._sock.sendall(self._out)
            self._close("closed")
        elif isinstance(action, float):
            self._is_waiting = True
            self._loop.call_later(action, self._wake)
        else:
            self._out += action

    def _wake(self) -> None:
        self._is_waiting = False
        self._guarded(self._work)

    def _close(self, how: str) -> None:
        self._is_closed = True
        self._loop.want(self._sock, 0, self._on_event)
        self._sock.close()
        self._sight.end(how)
        self._sight.close()


def serve_with_selectors(listeners: dict[str, socket.socket], ledger: Ledger) -> None:
    """Serves all connections in one loop."""
    loop = Loop()
    for name, listener in listeners.items():
        listener.setblocking(False)
        loop.want(listener, selectors.EVENT_READ, _acceptor(loop, listener, SERVICES[name], ledger))
    while not STOP.is_set():
        loop.turn()


def _acceptor(loop: Loop, listener: socket.socket, service: type[Service], ledger: Ledger) -> Callable[[int], None]:
    def accept(_events: int) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                sock, address = listener.accept()
                sock.setblocking(False)
                Channel(loop, sock, service(), ledger.begin(address))

    return accept


# asyncio streams.


def serve_with_streams(listeners: dict[str, socket.socket], ledger: Ledger) -> None:
    """Serves in a coroutine per connection."""
    asyncio.run(_serve_streams(listeners, ledger))


async def _serve_streams(listeners: dict[str, socket.socket], ledger: Ledger) -> None:
    def handler(service: type[Service]) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], object]:
        return lambda reader, writer: _serve_stream(reader, writer, service(), ledger)

    for name, listener in listeners.items():
        KEPT.append(await asyncio.start_server(handler(SERVICES[name]), sock=listener, backlog=BACKLOG))
    await asyncio.to_thread(STOP.wait)


async def _serve_stream(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, service: Service, ledger: Ledger
) -> None:
    sight = ledger.begin(writer.get_extra_info("peername"))
    try:
        if await _act_on_stream(writer, service.opened()):
            await _answer_stream(reader, writer, service, sight)
    except OSError:
        sight.end("reset")
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    sight.close()


async def _answer_stream(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, service: Service, sight: Sight
) -> None:
    while data := await reader.read(65536):
        sight.read(data)
        if not await _act_on_stream(writer, service.received(data)):
            sight.end("closed")
            return
    sight.end("eof")
    await _act_on_stream(writer, service.ended())


async def _act_on_stream(writer: asyncio.StreamWriter, actions: collections.abc.Iterator[Action]) -> bool:
    for action in actions:
        if action is CLOSE:
            return False
        if isinstance(action, float):
            await asyncio.sleep(action)
        else:
            writer.write(action)
            await writer.drain()
    return True


# asyncio transport and protocol.


def serve_with_protocol(listeners: dict[str, socket.socket], ledger: Ledger) -> None:
    """Serves by callbacks."""
    asyncio.run(_serve_protocol(listeners, ledger))


async def _serve_protocol(listeners: dict[str, socket.socket], ledger: Ledger) -> None:
    def factory(service: type[Service]) -> Callable[[], asyncio.Protocol]:
        return lambda: Talk(service(), ledger)

    loop = asyncio.get_running_loop()
    for name, listener in listeners.items():
        KEPT.append(await loop.create_server(factory(SERVICES[name]), sock=listener, backlog=BACKLOG))
    await asyncio.to_thread(STOP.wait)


class Talk(asyncio.Protocol):
    """One connection of the protocol server; it reads nothing while it waits or while too much is unsent."""

    _transport: asyncio.Transport
    _sight: Sight

    def __init__(self, service: Service, ledger: Ledger) -> None:
        self._service, self._ledger = service, ledger
        self._todo: collections.deque[Action] = collections.deque()
        self._is_waiting = self._is_full = self._has_ended = False

    def connection_made(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._sight = self._ledger.begin(transport.get_extra_info("peername"))
        self._todo.extend(self._service.opened())
        self._work()

    def data_received(self, data: bytes) -> None:
        self._sight.read(data)
        self._todo.extend(self._service.received(data))
        self._work()

    def eof_received(self) -> bool:
        self._has_ended = True
        self._sight.end("eof")
        self._todo.extend(self._service.ended())
        self._work()
        return True

    def pause_writing(self) -> None:
        self._is_full = True

    def resume_writing(self) -> None:
        self._is_full = False
        self._work()

    def connection_lost(self, exc: Exception | None) -> None:
        self._todo.clear()
        self._sight.end("reset" if exc else "error")
        self._sight.close()

    def _work(self) -> None:
        while self._todo and not (self._is_waiting or self._is_full):
            self._do(self._todo.popleft())
        if self._transport.is_closing():
            return
        if self._has_ended and not (self._todo or self._is_waiting):
            self._transport.close()
        elif self._todo or self._is_full:
            self._transport.pause_reading()
        elif not self._has_ended:
            self._transport.resume_reading()

    def _do(self, action: Action) -> None:
        if action is CLOSE:
            self._sight.end("closed")
            self._transport.close()
        elif isinstance(action, float):
            self._is_waiting = True
            asyncio.get_running_loop().call_later(action, self._wake)
        else:
            self._transport.write(action)

    def _wake(self) -> None:
        self._is_waiting = False
        self._work()


# The program.

STOP = threading.Event()
KEPT: list[object] = []
SERVERS = {
    "threads": serve_with_threads,
    "selectors": serve_with_selectors,
    "streams": serve_with_streams,
    "protocol": serve_with_protocol,
}


class Ear(logging.Handler):
    """Counts what the guard says that it closed."""

    closed = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.closed += getattr(record, "event_name", "") == "connection_closed"


def tell_at_the_end(ledger: Ledger, ear: Ear) -> None:
    """Waits for the end of standard input and of the connections, and tells what was seen."""
    sys.stdin.read()
    give_up_at = time.monotonic() + SETTLED_AFTER
    while ledger.open and time.monotonic() < give_up_at:
        time.sleep(0.02)
    seen = {**ledger.seen, **{name: f"{sight}:open" for name, sight in ledger.open.items()}}
    sys.stdout.write(json.dumps({"seen": seen, "closed_by_guard": ear.closed, "guarded": "sockguard" in sys.modules}))
    sys.stdout.flush()
    STOP.set()


def main() -> None:
    """Serves until standard input ends."""
    ear, ledger = Ear(), Ledger()
    logging.getLogger("sockguard").addHandler(ear)
    logging.getLogger("asyncio").setLevel("ERROR")  # it warns of answers to clients that left
    listeners = {name: socket.create_server(("127.0.0.1", 0), backlog=BACKLOG) for name in SERVICES}
    ports = {name: listener.getsockname()[1] for name, listener in listeners.items()}
    sys.stdout.write(json.dumps(ports) + "\n")
    sys.stdout.flush()
    threading.Thread(target=tell_at_the_end, args=(ledger, ear), daemon=True).start()
    SERVERS[sys.argv[1]](listeners, ledger)


if __name__ == "__main__":
    main()
