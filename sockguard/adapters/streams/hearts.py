"""The heartbeat of one anyio stream.

When it is sent. The program has neither sent nor received for a while, the peer has
acknowledged all that was sent, no `connection.sending()` is open, and the last message went
out whole: one that was cancelled in its midst may have left a part of it in the stream, and
then nobody knows where a message begins until the next one was sent.

When nobody is lost. While bytes lie unread, in the kernel or where anyio's protocol on asyncio
collects them, or when we came late, the silence may be our own doing, and does not count.
"""

import contextlib
import math
from typing import Any

from sockguard._core.heartbeat import BeatState, Heart
from sockguard._engine.guard import Guard
from sockguard._engine.send_gate import SendGate
from sockguard._engine.terms import Terms
from sockguard._kernel.activity import read_activity
from sockguard._kernel.natives import monotonic
from sockguard.adapters.streams.ends import failures
from sockguard.adapters.streams.owners import unread_bytes

__all__ = ["LATE", "BeatingStream", "StreamHeart", "beating_stream"]

LATE = 0.25
"""Seconds by which a look may come late before a silence is taken to be our own doing: the guard's own tick."""
_now = monotonic


class StreamHeart:
    """Says when to beat, and what; belongs to one event loop.

    Args:
        terms: Those of the connection, with a heart.
        raw: Its socket, or what asyncio gives in place of one.
        transport: Its transport, if it has one.
    """

    def __init__(self, guard: Guard, terms: Terms, heart: Heart, raw: Any, transport: Any) -> None:
        self._guard, self._terms, self._heart, self._raw, self._transport = guard, terms, heart, raw, transport
        self.gate = terms.gate or SendGate()
        self.is_torn = False
        """A message was begun, and perhaps not sent to its end."""

    @property
    def next_in(self) -> float:
        """Seconds until `question` is to be asked for; infinite for never."""
        at = self._heart.next_at
        return math.inf if at is None else max(0.0, at - _now())

    def question(self) -> bytes | None:
        """Gives what is to be sent now, if anything; then `asked` must be called, and until then the gate is held."""
        heart, now, due_at = self._heart, _now(), self._heart.next_at
        is_excused = self._is_behind() or (due_at is not None and now - due_at > LATE)
        if heart.check(now, is_excused=is_excused) is BeatState.LOST:
            self._lose(now)
            return None
        is_busy = is_excused or self.is_torn or self._is_sending()
        payload = heart.due(now, is_excused=True) if is_busy else self._enter(now)
        if (failure := heart.take_failure()) is not None:
            self._guard.failed("heartbeat", failure)
        return payload

    def _enter(self, now: float) -> bytes | None:
        if not self.gate.try_enter():
            return self._heart.due(now, is_excused=True)
        payload = self._heart.due(now, is_excused=False)
        if payload is None:
            self.gate.__exit__()
        else:
            self._heart.sent(now)  # now, as the task that receives may see the answer before the one that sends goes on
        return payload

    def asked(self, *, was_sent: bool) -> None:
        """Takes note of what became of the question; one that could not be sent whole was the last."""
        if not was_sent:
            self._heart.stop()
        self.gate.__exit__()

    def moved(self) -> None:
        """Takes note that the program has sent a message, whole."""
        self.is_torn = False
        self._heart.moved(_now())

    def take(self, data: bytes) -> bytes:
        """Takes the answers out of what has arrived; b"" is the end of the stream, and gives what was held back."""
        return self._heart.receive(data, _now())

    def _lose(self, now: float) -> None:
        """Has the guard end the connection: with its events, and by its ladder."""
        self._guard.demands.lose(self._terms, self._heart, now)

    def _is_behind(self) -> bool:
        """Tells whether we are the one who does not read."""
        protocol = None if self._transport is None else self._transport.get_protocol()
        return bool(getattr(protocol, "read_queue", None)) or unread_bytes(self._raw) > 0

    def _is_sending(self) -> bool:
        """Tells whether bytes of ours are still under way; then there may be no room for others, either."""
        if self._terms.books is not None:
            return False
        with contextlib.suppress(OSError, ValueError):  # it is closed
            return read_activity(self._raw).unsent > 0
        return True


class BeatingStream:
    """Sends heartbeats on a stream: while a receive() waits, or in a task of its own where a listener serves it.

    Args:
        library: The package anyio, which is not imported in this room.
        stream: What the heartbeats are sent through.
    """

    def __init__(self, library: Any, stream: Any, heart: StreamHeart) -> None:
        self._anyio, self._stream, self._heart = library, stream, heart
        self._failures = failures(library)
        self._lock, self._sender = library.Lock(), library.ResourceGuard("writing to")
        self._left = b""
        """Received, and not asked for yet."""
        self.closed = library.Event()
        self.has_task = False

    async def receive(self, max_bytes: int) -> bytes:
        """Receives what is the application's, and beats meanwhile."""
        if self._left:
            await self._anyio.lowlevel.checkpoint()
        while not self._left:
            self._left = await self._receive(max_bytes)
        data, self._left = self._left[:max_bytes], self._left[max_bytes:]
        return data

    async def _receive(self, max_bytes: int) -> bytes:
        with self._anyio.move_on_after(math.inf if self.has_task else self._heart.next_in):
            try:
                return self._heart.take(await self._stream.receive(max_bytes))
            except self._anyio.EndOfStream:
                if left := self._heart.take(b""):
                    return left
                raise
        await self._beat()
        await self._anyio.lowlevel.checkpoint_if_cancelled()  # anyio 4.4 mistook a cancel for a late beat
        return b""

    async def send(self, item: bytes) -> None:
        """Sends a message of the application's, after the heartbeat that may be under way."""
        with self._sender, self._heart.gate:
            async with self._lock:
                self._heart.is_torn = True
                await self._stream.send(item)
                self._heart.moved()

    async def send_eof(self) -> None:
        """Says that nothing more will be sent, no heartbeat either."""
        self._heart.is_torn = True
        await self._stream.send_eof()

    async def _beat(self) -> None:
        """Sends a heartbeat if one is due; whole, as half of one would spoil the stream."""
        question, was_sent = self._heart.question(), False
        if question is None:
            return
        with self._anyio.CancelScope(shield=True), contextlib.suppress(*self._failures):
            async with self._lock:
                await self._stream.send(question)
                was_sent = True
        self._heart.asked(was_sent=was_sent)

    async def beat_until_closed(self) -> None:
        """Beats, whatever the handler does, until the stream is closed."""
        while not self.closed.is_set():
            with self._anyio.move_on_after(self._heart.next_in):
                await self.closed.wait()
                return
            await self._beat()


def beating_stream(  # noqa: PLR0913, PLR0917 - what the two classes above are made of
    library: Any, stream: Any, guard: Guard, terms: Terms, raw: Any, transport: Any
) -> BeatingStream | None:
    """Makes what sends heartbeats on a stream; None if its policy has none."""
    if terms.heart is None:
        return None
    return BeatingStream(library, stream, StreamHeart(guard, terms, terms.heart, raw, transport))
