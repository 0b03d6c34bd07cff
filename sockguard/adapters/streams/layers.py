"""What stands between a guarded stream of anyio and the stream that it guards, where something does.

Mostly nothing does, so that a byte costs one call more and no test of what might be wanted.

`library` is the package anyio, which is not imported in this room.
"""

from typing import Any, NoReturn

from sockguard._core.books import PIECE, Books
from sockguard._kernel.natives import monotonic
from sockguard.adapters.streams.ends import Fault, abortion

__all__ = ["CountedStream", "RefusingStream"]

_now = monotonic


class CountedStream:
    """Keeps the books of a connection, where the kernel does not."""

    def __init__(self, library: Any, stream: Any, books: Books) -> None:
        self._stream, self._books = stream, books
        self._end, self._failures = library.EndOfStream, (library.BrokenResourceError, library.ClosedResourceError)

    async def receive(self, max_bytes: int) -> bytes:
        """Receives, and counts."""
        try:
            data: bytes = await self._stream.receive(max_bytes)
        except self._end:
            self._books.eof(_now())
            raise
        except self._failures:
            self._books.failed(_now())
            raise
        self._books.received(len(data), _now())
        return data

    async def send(self, item: bytes) -> None:
        """Sends in pieces, as a connection would look idle in the midst of a large one; and counts."""
        try:
            for start in range(0, len(item), PIECE) or (0,):
                piece = item[start : start + PIECE]
                await self._stream.send(piece)
                self._books.sent(len(piece), _now())
        except self._failures:
            self._books.failed(_now())
            raise

    async def send_eof(self) -> None:
        """Says that nothing more will be sent."""
        await self._stream.send_eof()


class RefusingStream:
    """Takes the place of a stream that is over. Each call lets other tasks have their turn first, as anyio's do."""

    def __init__(self, library: Any, fault: Fault) -> None:
        self._library, self._fault = library, fault

    async def receive(self, max_bytes: int) -> NoReturn:  # noqa: ARG002 - as that of a stream
        """Raises what ended the stream."""
        await self._library.lowlevel.checkpoint()
        self._fault.happen()

    async def send(self, item: bytes) -> NoReturn:  # noqa: ARG002 - as that of a stream
        """Raises what ended the stream; if that was its end, then that it was closed for that."""
        await self.send_eof()

    async def send_eof(self) -> NoReturn:
        """Does the same."""
        await self._library.lowlevel.checkpoint()
        if self._fault.kind is self._library.EndOfStream:
            abortion(self._library, 'its end was read (half_close="close")').happen()
        self._fault.happen()
