"""A protocol between transport and program, where bytes have to be seen: own stamps, and answers to heartbeats.

It is only there for those two, as each call through it costs. To everybody else it is the
protocol that it stands for: by its attributes, and by its class for `isinstance`.

What a program sends it hands to its transport, of which no protocol hears. Where sends have
to be stamped, an asyncio transport gets `write` and `writelines` of ours as attributes of its
own. One of uvloop takes no attributes, so there the kernel has to keep the books.

`start_tls` puts a protocol of asyncio's own between transport and program. It is set by
`transport.set_protocol`, so that is an attribute of ours as well: the stamps go on below TLS.
"""

import asyncio
import weakref
from collections.abc import Callable, Iterable
from typing import Any

from sockguard._core.books import Books
from sockguard._core.heartbeat import Heart
from sockguard._kernel.natives import monotonic

__all__ = ["hears", "proxy_for", "real_protocol", "stamp_sends"]

_now = monotonic
CHUNK = 65536
"""Bytes of the buffer in which answers are looked for before a BufferedProtocol gets the rest; as asyncio's streams."""


class _Proxy:
    """Stands for a protocol and notes what arrives.

    Args:
        real: The protocol.
        books: Where it is noted; None where the kernel keeps the books.
        heart: Knows the answers to heartbeats; None if none are expected.
    """

    def __init__(self, real: Any, books: Books | None, heart: Heart | None) -> None:
        self._real = real
        self._books = books
        self._heart = heart

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    @property  # type: ignore[misc] # which `object` has as one that can be set
    def __class__(self) -> Any:
        return type(self._real)

    def _feed(self, data: bytes) -> None:
        raise NotImplementedError

    def _seen(self, n: int) -> None:
        """Counts bytes that are handed on; answers to heartbeats are no activity of the connection's."""
        if self._books is not None:
            self._books.received(n, _now())

    def eof_received(self) -> Any:
        """Hands on what was held back as it might have become an answer, and then the end of the stream."""
        if self._books is not None:
            self._books.eof(_now())
        self._release()
        return self._real.eof_received()

    def connection_lost(self, error: BaseException | None) -> None:
        """As `eof_received`, of a connection that has failed. One that we closed ourselves gets no more bytes."""
        if error is not None:
            if self._books is not None:
                self._books.failed(_now())
            self._release()
        self._real.connection_lost(error)

    def _release(self) -> None:
        if self._heart is not None and (held := self._heart.receive(b"", _now())):
            self._seen(len(held))
            self._feed(held)


class _DataProxy(_Proxy):
    """Stands for an `asyncio.Protocol`."""

    def data_received(self, data: bytes) -> None:
        """Hands bytes on, without the answers to heartbeats."""
        if self._heart is not None:
            data = self._heart.receive(data, _now())
        self._seen(len(data))
        if data:
            self._real.data_received(data)

    def _feed(self, data: bytes) -> None:
        self._real.data_received(data)


class _CountingProxy(_Proxy):
    """Stands for an `asyncio.BufferedProtocol` of which bytes are only counted."""

    def buffer_updated(self, n: int) -> None:
        """Takes note of bytes that are in the protocol's own buffer already."""
        self._seen(n)
        self._real.buffer_updated(n)


class _BufferProxy(_Proxy):
    """Stands for an `asyncio.BufferedProtocol` of whose bytes some may be answers: these need a buffer of our own."""

    def __init__(self, real: Any, books: Books | None, heart: Heart | None) -> None:
        super().__init__(real, books, heart)
        self._buffer = memoryview(bytearray(CHUNK))

    def get_buffer(self, _: int) -> memoryview:
        """Gives our buffer."""
        return self._buffer

    def buffer_updated(self, n: int) -> None:
        """Hands bytes on, without the answers to heartbeats."""
        data = bytes(self._buffer[:n])
        if self._heart is not None:
            data = self._heart.receive(data, _now())
        self._seen(len(data))
        self._feed(data)

    def _feed(self, data: bytes) -> None:
        while data:
            buffer = memoryview(self._real.get_buffer(len(data)))
            if not buffer:
                msg = "get_buffer() returned an empty buffer"  # as asyncio says it
                raise RuntimeError(msg)
            n = min(len(buffer), len(data))
            buffer[:n] = data[:n]
            self._real.buffer_updated(n)
            data = data[n:]


def proxy_for(real: Any, books: Books | None, heart: Heart | None) -> Any:
    """Makes a proxy for a protocol; gives the protocol itself if nothing of its bytes has to be seen."""
    answers = heart if heart is not None and heart.heartbeat.expect is not None else None
    if books is None and answers is None:
        return real
    if hasattr(real, "data_received") and not isinstance(real, asyncio.BufferedProtocol):
        return _DataProxy(real, books, answers)
    return (_CountingProxy if answers is None else _BufferProxy)(real, books, answers)


def real_protocol(protocol: Any) -> Any:
    """Gives the protocol for which a proxy stands; any other as it is."""
    return protocol._real if issubclass(type(protocol), _Proxy) else protocol  # noqa: SLF001 - it is of this file


def hears(protocol: Any, heart: Heart) -> bool:
    """Tells whether the answers to a heartbeat are seen by a protocol, if any are expected."""
    return heart.heartbeat.expect is None or (issubclass(type(protocol), _Proxy) and protocol._heart is heart)  # noqa: SLF001


def stamp_sends(transport: Any, books: Books) -> bool:
    """Has a transport note what the program sends, and what protocols it gets; False if it takes no attributes."""
    kind = type(transport)
    try:
        own, ref = vars(transport), weakref.ref(transport)  # not bound methods: it would refer to itself, and never die
    except TypeError:  # of a class in C
        return False

    def write(data: Any) -> None:
        kind.write(ref(), data)
        books.sent(memoryview(data).nbytes, _now())

    def writelines(pieces: Iterable[Any]) -> None:
        kept = list(pieces)
        kind.writelines(ref(), kept)
        books.sent(sum(memoryview(piece).nbytes for piece in kept), _now())

    def set_protocol(protocol: Any) -> None:
        is_seen = protocol is None or issubclass(type(protocol), _Proxy)
        kind.set_protocol(ref(), protocol if is_seen else proxy_for(protocol, books, None))

    ours: dict[str, Callable[[Any], None]] = {
        "write": write,
        "writelines": writelines,
        "set_protocol": set_protocol,
    }
    own.update(ours)
    return True
