"""The heartbeat of one connection of an event loop: a timer of the loop, and bytes through the transport.

When it is sent. Both directions must have been silent (the kernel tells), all that was
written must have left the transport, and no `connection.sending()` may be open.

To whom it belongs. To the protocol that the connection was made for. While another one is in
its place, nothing is sent and no silence counts: sendfile() sends a file there, or the
program has changed over to another protocol. Only below TLS that `start_tls` put on top it is
looked for again, and its transport is then the one of TLS.

When nobody is lost. While bytes lie unread in the kernel, the program has paused reading or
the event loop came late, the silence may be our own doing. It is left out of the account.
"""

import asyncio
import contextlib
import weakref
from typing import Any

from sockguard._core.heartbeat import BeatState, Heart
from sockguard._engine.guard import Guard
from sockguard._engine.transports import socket_of
from sockguard._kernel.natives import monotonic
from sockguard._kernel.one_socket import read_unread
from sockguard.adapters.loops.members import Member
from sockguard.adapters.loops.proxies import hears, proxy_for, real_protocol

__all__ = ["LATE", "LoopHeart"]

LATE = 0.25
"""Seconds by which a timer may come late before the event loop is to blame for a silence: the guard's own tick."""
_now = monotonic


class LoopHeart:
    """Beats for one transport until that is closed; keeps neither it nor its protocol alive.

    Args:
        protocol: What the connection was made for.
    """

    def __init__(self, guard: Guard, loop: Any, member: Member, protocol: Any) -> None:
        self._guard, self._loop, self._member = guard, loop, member
        self._protocol = _ref_to(protocol)

    def start(self, heart: Heart) -> None:
        """Begins; on the loop's thread."""
        self._plan(heart)

    def _plan(self, heart: Heart) -> None:
        if (at := heart.next_at) is not None:
            self._loop.call_later(max(0.0, at - _now()), self._run, heart, at)

    def _run(self, heart: Heart, at: float) -> None:
        try:
            self._beat(heart, at)
        except Exception as error:  # noqa: BLE001 - nothing of ours may reach the program's event loop
            self._guard.failed("heartbeat", error)

    def _beat(self, heart: Heart, at: float) -> None:
        made_with = self._member.transport()
        if made_with is None or made_with.is_closing() or self._member.terms.verdict is not None:
            return
        now = _now()
        transport = self._transport_in_use(made_with, heart)
        is_excused = transport is None or now - at > LATE or _is_behind(transport)
        moved_at = self._member.connection.last_update
        if moved_at is not None and moved_at + heart.heartbeat.every > now:
            heart.moved(moved_at)
        if heart.check(now, is_excused=is_excused) is BeatState.LOST:
            self._lose(heart, now)
            return
        if transport is None or transport.get_write_buffer_size():
            heart.moved(now)  # not idle, or not ours to speak
        else:
            self._ask(heart, transport, now, is_excused=is_excused)
        if (failure := heart.take_failure()) is not None:
            self._guard.failed("heartbeat", failure)
        self._plan(heart)

    def _ask(self, heart: Heart, transport: Any, now: float, *, is_excused: bool) -> None:
        gate = self._member.terms.gate
        if gate is None or not gate.try_enter():
            heart.moved(now)
            return
        with contextlib.ExitStack() as stack:
            stack.push(gate.__exit__)
            payload = heart.due(now, is_excused=is_excused)
            if payload is None:
                return
            try:
                type(transport).write(transport, payload)  # past the stamps: it is no activity of the program's
            except RuntimeError:  # after write_eof(), or in the midst of sendfile()
                heart.moved(now)
            else:
                heart.sent(now)

    def _lose(self, heart: Heart, now: float) -> None:
        """Has the guard end the connection: with its events, and by its ladder."""
        self._guard.demands.lose(self._member.terms, heart, now)

    def _transport_in_use(self, made_with: Any, heart: Heart) -> Any:
        """Finds the transport through which the protocol sends now; None if another protocol is in its place."""
        protocol = self._protocol()
        if protocol is None:
            return None
        of_streams = protocol._transport if isinstance(protocol, asyncio.StreamReaderProtocol) else None  # type: ignore[attr-defined]  # noqa: SLF001
        for transport in (made_with, _on_top(made_with), of_streams):
            if transport is not None and real_protocol(transport.get_protocol()) is protocol:
                if not hears(transport.get_protocol(), heart):  # the one below TLS did
                    books = self._member.terms.books if transport is made_with else None
                    transport.set_protocol(proxy_for(protocol, books, heart))
                return transport
        return None


def _on_top(transport: Any) -> Any:
    """Finds what `start_tls` put on top: asyncio's TLS protocol has it by a private name, that of uvloop hides it."""
    return getattr(real_protocol(transport.get_protocol()), "_app_transport", None)


def _ref_to(protocol: Any) -> Any:
    try:
        return weakref.ref(protocol)
    except TypeError:  # a class with __slots__: only as long as the timer runs
        return lambda: protocol


def _is_behind(transport: Any) -> bool:
    """Tells whether we are the one who does not read."""
    is_reading = getattr(transport, "is_reading", None)
    if is_reading is not None and not is_reading():
        return True
    with contextlib.suppress(OSError, ImportError):  # closed; or Windows, which knows no FIONREAD
        sock = socket_of(transport)
        return sock is not None and read_unread(sock) > 0
    return False
