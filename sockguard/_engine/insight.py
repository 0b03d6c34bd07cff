"""What does only the inside know? Creation sites, owners, holders, and what the guard has done.

`find_leaks()`, the control socket and the dump on a signal are three readers of it. It is
worked out when somebody asks, for connections whose peer has hung up.
"""

import os
from collections.abc import Callable, Iterable
from typing import Any

from sockguard._core.causes import Known, Stall
from sockguard._core.events import Event
from sockguard._core.leaks import find_leaks
from sockguard._core.policy import Policy
from sockguard._engine.dump import event_lines, render_dump
from sockguard._engine.owners import describe_owner, held_by
from sockguard._engine.record import Record
from sockguard._engine.registry import Registry
from sockguard._engine.stalls import StallWatch, where_is
from sockguard._engine.transports import find_transport
from sockguard._kernel.linux import look_at_self
from sockguard._kernel.natives import monotonic
from sockguard._kernel.one_socket import find_cookie

__all__ = ["Insight"]

MAX_SEARCH = 1.0
"""Seconds for searching holders in one answer, however many connections are sick: who asks waits for 2 s."""


class Insight:
    """Tells of the connections of this process what the kernel cannot.

    Args:
        recent: Gives the last events, with their instants.
    """

    def __init__(
        self,
        policy: Policy,
        registry: Registry,
        stalls: StallWatch,
        recent: Callable[[], Iterable[tuple[float, Event]]],
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self.policy = policy
        self._registry = registry
        self._stalls = stalls
        self._recent = recent
        self._clock = clock

    def owner_of(self, record: Record) -> str | None:
        """Describes who works on a connection; None if that cannot be told."""
        transport, sock, thread_id = _owners(record)
        return describe_owner(transport=transport, sock=sock, thread_id=thread_id)

    def known(self) -> dict[int, Known]:
        """Tells, by cookie, what is known of every connection; holders and owners of those that hung up."""
        found: dict[int, Known] = {}
        stalled = self._stalled()
        search_until = self._clock() + MAX_SEARCH
        for record in sorted(self._registry.records(), key=lambda record: record.is_hung_up, reverse=True):
            cookie = record.cookie or find_cookie(record())
            if cookie is not None:
                found[cookie] = self._known(record, stalled, search_until)
        for ref, _, _, _, site, *_ in list(self._registry.opened):  # since the last tick
            if (cookie := find_cookie(ref())) is not None:
                found[cookie] = Known(created_at=site.frames())
        return found

    def _known(self, record: Record, stalled: dict[int, Stall], search_until: float) -> Known:
        transport, sock, thread_id = _owners(record)
        thing = transport if transport is not None else sock
        seconds = search_until - self._clock()
        is_searched = record.is_hung_up and seconds > 0
        return Known(
            created_at=record.site.frames() if record.site is not None else None,
            held_by=held_by(thing, seconds) or None if is_searched and thing is not None else None,
            ended_by_guard=record.is_ended_by_guard,
            stalled=stalled.get(thread_id) if thread_id is not None else None,
            owner=describe_owner(transport=transport, sock=sock, thread_id=thread_id) if is_searched else None,
            reason=record.verdict.reason if record.verdict else None,
        )

    def _stalled(self) -> dict[int, Stall]:
        now = self._clock()
        return {
            ref.thread_id: Stall(now - ref.stalled_at, where_is(ref.thread_id))
            for ref in self._stalls.stalled()
            if ref.stalled_at is not None
        }

    def answer(self) -> dict[str, object]:
        """Makes the answer of the control socket, as docs/reference/control-socket.md has it."""
        known = self.known()
        by_cookie = {record.cookie: record for record in self._registry.records()}
        return {
            "connections": [self._entry(by_cookie[c], told) for c, told in known.items() if c in by_cookie],
            "stalled": [
                {"thread": thread, "seconds": stall.seconds, "where": stall.where}
                for thread, stall in self._stalled().items()
            ],
            "policy": {info.name: _plain(getattr(self.policy, info.name)) for info in self.policy.describe()},
        }

    def _entry(self, record: Record, known: Known) -> dict[str, object]:
        entry = known._asdict() | {"cookie": record.cookie, "thread": _owners(record)[2]}
        entry["step"] = record.connection.step.name.lower() if record.connection else None
        del entry["stalled"]
        return entry

    def dump(self) -> str:
        """Renders connections, leaks and the last events for people."""
        now = self._clock()
        leaks = find_leaks(look_at_self(), min_age=0.0, pids=[os.getpid()], known=self.known())
        sections = {
            "Guarded connections": [_line(record, now) for record in self._registry.records()],
            "Leaked connections": [f"{leak!r}: {leak.remedy}" for leak in leaks],
            "Last events": event_lines(self._recent(), now),
        }
        return render_dump(f"sockguard in process {os.getpid()}", sections)


def _owners(record: Record) -> tuple[Any, Any, int | None]:
    """Finds the transport, or else the socket object, that owns a connection, and the thread of its loop."""
    owner = record()
    loop = record.loop.ref() if record.loop is not None else None
    thread_id = record.loop.thread_id if record.loop is not None else None
    if loop is not None:
        return find_transport(record, loop), None, thread_id
    return None, owner if record.has_object else None, thread_id


def _plain(value: object) -> object:
    return value if isinstance(value, str | int | float | None) else str(value)


def _line(record: Record, now: float) -> str:
    frames = record.site.frames() if record.site else ()
    step = f", {record.connection.step.name.lower()}" if record.connection and record.connection.step else ""
    side = "accepted" if record.is_server else "connected"
    return f"fd {record.fd}, {side} {now - record.opened_at:.1f} s ago at {(*frames, 'a place not known')[0]}{step}"
