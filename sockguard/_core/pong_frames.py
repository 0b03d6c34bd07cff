"""Has the peer of a WebSocket sent a pong? Frame by frame through the stream, and only their heads (RFC 6455, 5.2).

A pong cannot be told by its bytes, as any message may hold them. So the stream is followed
from its beginning: through the handshake, and then from frame to frame by their lengths.
Extensions do not get in the way: they transform payloads, and those of data frames only
(RFC 7692, 6.1, for permessage-deflate).

Before the handshake a ping would be garbage in the middle of HTTP. So nothing is asked until
the peer has sent a handshake, or a frame; and nothing after it has sent a close frame. A
handshake that *we* then refuse is not seen here, as that goes the other way. HTTP/2 has no
such handshake, and so no heartbeat.

Any pong is an answer, whatever its payload: a peer that was asked twice may answer only the
later (5.5.3), and the other question may have been that of the application's library.
"""

from collections.abc import Callable

from sockguard._core.answers import Answers

__all__ = ["MAX_HEAD", "PongFrames", "ping"]

FIN, MASKED = 0x80, 0x80
CLOSE, PING, PONG = 0x8, 0x9, 0xA
RESERVED_2_AND_3 = 0x30
"""Bits that no registered extension uses; the first reserved one marks compressed messages."""
DATA_OPCODES = frozenset({0x0, 0x1, 0x2})
CONTROL_FIRST_BYTES = frozenset({FIN | CLOSE, FIN | PING, FIN | PONG})
"""Control frames are never in fragments and never compressed."""
LENGTH_SIZES = {126: 2, 127: 8}
MASK_SIZE = 4
END_OF_HEAD = b"\r\n\r\n"
MAX_HEAD = 16384
"""Bytes of HTTP that are kept to find a handshake in; h11 allows as many for a head (its `_connection.py`)."""


class PongFrames(Answers):
    """Counts pongs in what a WebSocket peer sends; all bytes are handed on."""

    __slots__ = ("_n_to_skip", "_partial", "_read")

    def __init__(self) -> None:
        self._read: Callable[[PongFrames, bytes, int], tuple[int, int]] = PongFrames._read_first
        self._partial = b""
        """The beginning of a head of which more is to come."""
        self._n_to_skip = 0
        """Bytes of a payload that are still to come."""

    @property
    def is_ready(self) -> bool:
        """Whether the peer has sent a handshake or a frame."""
        return self._read is PongFrames._read_frame

    def take(self, data: bytes, n_owed: int) -> tuple[bytes, int]:
        """Counts the pongs that begin in these bytes.

        Raises:
            ValueError: This is no WebSocket.
        """
        stream, at, n_pongs = self._partial + data, 0, 0
        while True:
            skipped = min(self._n_to_skip, len(stream) - at)
            at, self._n_to_skip = at + skipped, self._n_to_skip - skipped
            end, n = self._read(self, stream, at)
            if end == at:
                break
            at, n_pongs = end, n_pongs + n
        self._partial = stream[at:]
        return data, min(n_pongs, n_owed)

    # Each of these reads one head at a place. It gives where the head ends, the same place if more
    # is needed, and whether it was that of a pong.

    def _read_first(self, stream: bytes, at: int) -> tuple[int, int]:
        if at == len(stream):
            return at, 0
        self._read = PongFrames._read_frame if _can_begin_frame(stream[at]) else PongFrames._read_http
        return self._read(self, stream, at)

    def _read_http(self, stream: bytes, at: int) -> tuple[int, int]:
        end = stream.find(END_OF_HEAD, at)
        if end < 0:
            return max(at, len(stream) - MAX_HEAD), 0
        if _is_handshake(stream[at:end]):
            self._read = PongFrames._read_frame
        return end + len(END_OF_HEAD), 0

    def _read_frame(self, stream: bytes, at: int) -> tuple[int, int]:
        first, second = stream[at : at + 2].ljust(2, b"\0")
        if at < len(stream) and not _can_begin_frame(first):
            message = f"no WebSocket frame can begin with 0x{first:02x}"
            raise ValueError(message)
        size = LENGTH_SIZES.get(second & ~MASKED, 0)
        end = at + 2 + size + MASK_SIZE * bool(second & MASKED)
        if end > len(stream):
            return at, 0
        self._n_to_skip = int.from_bytes(stream[at + 2 : at + 2 + size], "big") if size else second & ~MASKED
        if first == FIN | CLOSE:
            self._read = PongFrames._read_rest
        return end, int(first == FIN | PONG)

    def _read_rest(self, stream: bytes, _: int) -> tuple[int, int]:
        self._n_to_skip = 0
        return len(stream), 0  # nothing follows a close frame


def _can_begin_frame(byte: int) -> bool:
    """Tells whether a frame can begin so; of capital letters, as HTTP begins with, only "@", "A" and "B" can."""
    return byte in CONTROL_FIRST_BYTES or (byte & 0x0F in DATA_OPCODES and not byte & RESERVED_2_AND_3)


def _is_handshake(head: bytes) -> bool:
    """Tells whether a request asks for a WebSocket, or a response grants it; a body may stand before either."""
    lines = [line.strip().lower() for line in head.split(b"\r\n")]
    statuses = [line for line in lines if line.startswith(b"http/1.")]
    fields = [line.partition(b":") for line in lines]
    is_upgrade = any(name == b"upgrade" and b"websocket" in value for name, _, value in fields)
    return is_upgrade and all(line[8:].split()[:1] == [b"101"] for line in statuses)


def ping(mask: Callable[[], bytes] | None) -> bytes | Callable[[], bytes]:
    """Makes an empty ping: of a server as it is, of a client a function that asks for a mask each time (5.3)."""
    if mask is None:
        return bytes([FIN | PING, 0])
    return lambda: bytes([FIN | PING, MASKED]) + _first(mask())


def _first(mask: object) -> bytes:
    if isinstance(mask, bytes) and len(mask) >= MASK_SIZE:
        return mask[:MASK_SIZE]
    message = f"heartbeat.mask() gave {type(mask).__name__}, not bytes, {MASK_SIZE} or more"
    raise TypeError(message)
