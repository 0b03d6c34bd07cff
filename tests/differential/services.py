"""What the servers of the differential test answer: pure functions of the bytes that were read, without any socket.

A service is asked when a connection opens, when bytes arrive and when the peer's FIN
arrives, and says what to do: send these bytes, wait so many seconds, or close. However the
bytes are cut into pieces on their way, the answer is the same; that is what makes it
possible to say beforehand, in script.py, what a client must receive.
"""

import hashlib
import random
import struct
import zlib
from collections.abc import Iterator

__all__ = ["ASK", "BLOB", "CLOSE", "SERVICES", "STREAM", "Action", "Service", "blob"]

BLOB = random.Random(20261120).randbytes(1 << 19)
"""All that is sent and answered is cut out of this."""

CLOSE = None
Action = bytes | float | None
"""Bytes are sent, a float is waited for (seconds), CLOSE closes without waiting for the peer's FIN."""

ASK = struct.Struct(">IHIB")
"""Before each request: its length, milliseconds until the answer, the answer's length, whether it is the last."""

STREAM = struct.Struct(">BHI")
"""Before a question to be answered after its end: pieces of the answer, milliseconds between them, length of each."""

INVERT = bytes(255 - value for value in range(256))


def blob(offset: int, size: int) -> bytes:
    """Cuts bytes out of BLOB; at its end it begins anew."""
    start = offset % len(BLOB)
    piece = BLOB[start : start + size]
    while len(piece) < size:
        piece += BLOB[: size - len(piece)]
    return piece


class Service:
    """One connection's service; this one sends back what it gets."""

    def opened(self) -> Iterator[Action]:
        """Says what to do before anything was read."""
        yield from ()

    def received(self, data: bytes) -> Iterator[Action]:
        """Says what to do about some more bytes."""
        yield data

    def ended(self) -> Iterator[Action]:
        """Says what to do after the peer's FIN; afterwards the connection is closed."""
        yield from ()


class Transform(Service):
    """Sends back each byte inverted and, after the FIN, a digest of all."""

    def __init__(self) -> None:
        self._digest = hashlib.blake2b(digest_size=20)

    def received(self, data: bytes) -> Iterator[Action]:
        self._digest.update(data)
        yield data.translate(INVERT)

    def ended(self) -> Iterator[Action]:
        yield self._digest.digest()


class Stream(Service):
    """Reads everything up to the FIN, and then answers in pieces with pauses, as the first bytes asked for."""

    def __init__(self) -> None:
        self._head = b""
        self._sum = 0

    def received(self, data: bytes) -> Iterator[Action]:
        self._head = (self._head + data)[: STREAM.size] if len(self._head) < STREAM.size else self._head
        self._sum = zlib.crc32(data, self._sum)
        yield from ()

    def ended(self) -> Iterator[Action]:
        pieces, pause, size = STREAM.unpack(self._head) if len(self._head) == STREAM.size else (2, 10, 100)
        for piece in range(pieces):
            if pause:
                yield pause / 1000
            yield blob(self._sum + piece, size)


class Ask(Service):
    """Answers request by request, each as late as it says; the last one may tell it to close at once."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def received(self, data: bytes) -> Iterator[Action]:
        self._buffer += data
        while len(self._buffer) >= ASK.size:
            length, delay, size, last = ASK.unpack_from(self._buffer)
            if len(self._buffer) < ASK.size + length:
                return
            question = bytes(self._buffer[ASK.size : ASK.size + length])
            del self._buffer[: ASK.size + length]
            if delay:
                yield delay / 1000
            yield blob(zlib.crc32(question), size)
            if last:
                yield CLOSE


class Greet(Service):
    """Speaks first, and then sends back what it gets."""

    def opened(self) -> Iterator[Action]:
        yield blob(1, 1500)


class LateGreet(Service):
    """Speaks first, after a moment, whether or not the peer has hung up by then."""

    def opened(self) -> Iterator[Action]:
        yield 0.2
        yield blob(2, 30_000)


SERVICES: dict[str, type[Service]] = {
    "echo": Service,
    "transform": Transform,
    "stream": Stream,
    "ask": Ask,
    "greet": Greet,
    "late_greet": LateGreet,
}
