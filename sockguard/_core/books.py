"""Own stamps: what a wrapper notes of a connection where the kernel keeps no books.

That is so off Linux, for AF_UNIX everywhere, and with `SOCKGUARD_BACKEND=portable`. The
wrapper calls one method for each recv or send that returned, and the guard's thread reads
the numbers (`_kernel/portable.py`). There is no lock: each number is written in one step
under the GIL, and one that is read a moment too early is read again at the next look.

Obligation. What is noted is what a call returned, so a call that moves bytes for long
without returning, as `sendall()` of a large body, has to be cut into pieces of `PIECE`
bytes: else its connection looks idle in the midst of it.
"""

__all__ = ["PIECE", "Books"]

PIECE = 65536
"""Bytes that one call of a wrapper with books sends at most. asyncio and the buffers of most systems have this size;
at 1 KiB per second, which is slower than most would bear, a piece takes about a minute."""


class Books:
    """Byte counts and instants of one connection; instants are of the monotonic clock.

    Args:
        now: When the connection was opened.
    """

    __slots__ = ("eof_at", "failed_at", "opened_at", "received_at", "received_bytes", "sent_at", "sent_bytes")

    def __init__(self, now: float) -> None:
        self.opened_at = now
        self.received_bytes = 0
        """Bytes that the application has read, not those that wait for it."""
        self.sent_bytes = 0
        """Bytes that were handed over: to the system by a socket, to its transport by a protocol."""
        self.received_at = now
        """When a byte was last read; when the connection was opened if none was. So with the next one."""
        self.sent_at = now
        self.eof_at: float | None = None
        """When the application first read the end of what its peer sends."""
        self.failed_at: float | None = None
        """When a call first failed with an error that ends a connection."""

    def received(self, n: int, now: float) -> None:
        """Notes that n bytes were read, which is nothing for 0: whether that is the end, only the caller knows."""
        if n:
            self.received_bytes += n
            self.received_at = now

    def sent(self, n: int, now: float) -> None:
        """Notes that n bytes were taken over."""
        if n:
            self.sent_bytes += n
            self.sent_at = now

    def eof(self, now: float) -> None:
        """Notes that the application has read the end of what its peer sends."""
        if self.eof_at is None:
            self.eof_at = now

    def failed(self, now: float) -> None:
        """Notes that a call failed by an error that ends a connection: one of `ENDS_IT` of `_kernel/portable.py`."""
        if self.failed_at is None:
            self.failed_at = now

    @property
    def last_update(self) -> float:
        """When the last byte moved; when the connection was opened if none has."""
        return max(self.received_at, self.sent_at)
