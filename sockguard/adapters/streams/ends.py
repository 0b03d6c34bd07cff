"""How does a stream of anyio end? What its calls raise from then on, and how it is closed without losing an answer.

close() with unread bytes makes the kernel send a RST, and the peer may lose the tail of our
answer (`_engine/lingering.py`). A close that may wait sends our FIN first, then reads and
drops. One that is cancelled may not: then a duplicate of the descriptor is left to the guard,
and the stream releases its own at once.

A cancelled `aclose()` must release the descriptor all the same. So whatever closes does it
last in a scope that is shielded, so that nobody else can stop it, and cancelled, so that it
waits for nothing (as `anyio.aclose_forcefully`).

`library` is the package anyio, which is not imported in this room.
"""

import contextlib
import errno
import os
import socket
from typing import Any, NamedTuple, NoReturn

from sockguard._core.books import PIECE
from sockguard._core.policy import Policy
from sockguard._engine.guard import Guard
from sockguard.adapters.streams.owners import unread_bytes

__all__ = ["Fault", "abortion", "close_stream", "failures", "release"]


class Fault(NamedTuple):
    """What each call of a stream raises that is over, and the OSError that it comes from."""

    kind: type[Exception]
    cause: tuple[int | None, str | None] | None = None

    @classmethod
    def of(cls, error: Exception) -> "Fault":
        """Keeps the facts of an error, and not its traceback, which would keep the handler alive."""
        cause = error.__cause__
        return cls(type(error), (cause.errno, cause.strerror) if isinstance(cause, OSError) else None)

    def happen(self) -> NoReturn:
        """Raises it."""
        raise self.kind from None if self.cause is None else OSError(*self.cause)


def abortion(library: Any, why: str) -> Fault:
    """Makes the fault of a connection that sockguard has ended: its cause is a ConnectionAbortedError."""
    return Fault(library.BrokenResourceError, (errno.ECONNABORTED, f"sockguard ended this connection: {why}"))


def failures(library: Any) -> tuple[type[Exception], ...]:
    """Lists what the calls of a stream raise that is over, or busy."""
    over = (library.EndOfStream, library.BrokenResourceError, library.ClosedResourceError)
    return (*over, library.BusyResourceError, OSError)


async def release(library: Any, stream: Any) -> None:
    """Closes a stream at once, whatever is cancelled meanwhile."""
    with library.CancelScope(shield=True) as scope, contextlib.suppress(*failures(library)):
        scope.cancel()
        await stream.aclose()


async def close_stream(library: Any, stream: Any, raw: Any, guard: Guard, policy: Policy) -> None:
    """Closes a stream: within `drain_timeout`, and at once if nothing is unread or it is cancelled.

    Args:
        stream: Of a socket, or a layer on top of one, as TLS. That has no half to close, and may wait for its peer.
        raw: The socket below it, or what asyncio gives in place of one.
        guard: What is unread when it is cancelled is left to it.
    """
    is_layered = not isinstance(stream, library.abc.SocketStream)
    seconds = None if policy.mode == "observe" else policy.drain_timeout
    if seconds is None or not (is_layered or unread_bytes(raw)):
        await stream.aclose()
        return
    with library.move_on_after(seconds) as scope:
        try:
            with contextlib.suppress(*failures(library)):
                await (_drop_unread if is_layered else _drain)(stream, raw, policy.drain_bytes)
            await stream.aclose()
        except library.get_cancelled_exc_class():
            if not scope.cancel_called:
                _leave_to_guard(guard, raw, policy)
            raise
        finally:
            await release(library, stream)


async def _drain(stream: Any, _: Any, n_left: int) -> None:
    """Sends our FIN, then reads and drops up to the peer's."""
    await stream.send_eof()
    while n_left > 0:
        n_left -= len(await stream.receive(min(n_left, PIECE)))


async def _drop_unread(stream: Any, raw: Any, n_left: int) -> None:
    """Reads and drops what is there."""
    while n_left > 0 and unread_bytes(raw):
        n_left -= len(await stream.receive(min(n_left, PIECE)))


def _leave_to_guard(guard: Guard, raw: Any, policy: Policy) -> None:
    with contextlib.suppress(OSError, ValueError):
        if unread_bytes(raw):
            guard.linger(socket.socket(fileno=os.dup(raw.fileno())), policy)
