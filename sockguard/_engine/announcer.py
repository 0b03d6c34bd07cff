"""What is said of what the guard sees and does: events, with where a connection was opened and why it leaks."""

import functools
import os
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, Protocol

from sockguard._core.causes import Cause
from sockguard._core.decide import Action, Reason, Verdict
from sockguard._core.events import Event, EventName, make_event
from sockguard._core.facts import Holder, Names, SocketFacts, TcpState
from sockguard._core.inference import Side, age_of
from sockguard._core.leaks import Leak, find_leaks
from sockguard._core.policy import Policy
from sockguard._engine.pressure import DescriptorWatch, StuckQueue
from sockguard._engine.record import Record
from sockguard._engine.sites import Site
from sockguard._engine.stalls import Stall
from sockguard._kernel.linux import look_at_self
from sockguard.errors import SockguardError

__all__ = ["Announcer", "Counter"]

IDENTITY = ("local", "remote", "fd", "cookie", "side", "created_at", "pid")
KNOWN_TO_PROGRAM = frozenset({Reason.FAILED, Reason.LEFT_OPEN})
"""What the program knows without us, by an exception of its call, or has left to the wrapper: not told as a warning."""
_SIDES = {True: Side.SERVER, False: Side.CLIENT}


class Counter(Protocol):
    """Counts events that are told nobody for now, as too many of their origin come; so they need not be made."""

    def counts_only(self, name: EventName, site: Hashable, now: float) -> bool:
        """Tells whether one more would only be counted."""

    def count(self, name: EventName, site: Hashable) -> bool:
        """Counts one more; False if it has to be told after all."""


class Announcer:
    """Makes events of what happens and hands them on.

    Args:
        tell: Called with each event and the time.
        owner_of: Describes who works on a connection; asked for sick ones only.
        counter: Counts events that would be told nobody now; without one, all are made.
    """

    def __init__(
        self,
        policy: Policy,
        tell: Callable[[Event, float], object],
        owner_of: Callable[[Record], str | None],
        counter: Counter | None = None,
    ) -> None:
        self._policy = policy
        self._tell = tell
        self._owner_of = owner_of
        self._counter = counter
        self._leaks: dict[int | None, Leak] | None = None
        self.now = 0.0

    def begin(self, now: float) -> None:
        """Takes note that a tick begins."""
        self.now, self._leaks = now, None

    def peer_closed(self, record: Record) -> None:
        """Tells that a peer hung up."""
        connection = record.connection
        if connection is not None:
            state = TcpState(connection.state).name
            self._say(EventName.PEER_CLOSED, record, state=state, unread=connection.unread)

    def leak(self, record: Record) -> None:
        """Tells of a leak: the kernel is asked once more, for the same words as `sockguard report` has."""
        fields = _common(record) | _leak_fields(record, self._leak_of(record)) | {"owner": self._owner_of(record)}
        record.reported = {"at": self.now, **fields}
        self._tell(make_event(EventName.LEAK_DETECTED, site=record.site, **fields), self.now)

    def _leak_of(self, record: Record) -> Leak | None:
        """Finds it among all leaks of the process, which are looked for once a tick: they come by the thousand."""
        if self._leaks is None:
            self._leaks = _find_leaks()
        return None if record.cookie is None else self._leaks.get(record.cookie)

    def cleared(self, record: Record, how: str) -> None:
        """Takes a told leak back."""
        if record.reported is None:
            return
        told, record.reported = record.reported, None
        after = self.now - float(str(told["at"]))
        fields = {name: told.get(name) for name in IDENTITY}
        event = make_event(EventName.LEAK_CLEARED, site=record.site, after_seconds=after, how=how, **fields)
        self._tell(event, self.now)

    def step(self, record: Record, verdict: Verdict) -> None:
        """Tells that the guard ends a connection; once, whatever steps it takes."""
        mode = record.policy_or(self._policy).mode
        if verdict.action is Action.SHUT_DOWN and mode == "enforce":
            self.cleared(record, "ended_by_guard")
        if verdict.reason is None or record.connection is None or not record.claim():
            return
        if verdict.reason is Reason.HEARTBEAT:
            self._say(EventName.HEARTBEAT_LOST, record, seconds=verdict.seconds, limit=verdict.limit, mode=mode)
        fields = _numbers(verdict, record.connection.unread, record.connection.step.name.lower(), mode)
        self._say(EventName.CONNECTION_CLOSED, record, **fields, owner=self._owner_of(record))

    def is_counted_only(self, record: Record, reason: Reason, now: float) -> bool:
        """Tells whether nobody would be told now that a wrapper ends a connection; it would be counted."""
        origin = _origin(record, reason)
        return self._counter is not None and self._counter.counts_only(EventName.CONNECTION_CLOSED, origin, now)

    def ended(
        self, record: Record, verdict: Verdict, now: float, fields: dict[str, object], *, is_to_count: bool = False
    ) -> None:
        """Tells that a wrapper has ended a connection, if nobody has told of that yet; from any thread.

        Args:
            now: The monotonic clock.
            fields: More of the event: `unread`, `step`, `error`.
            is_to_count: It is only to be counted, if that can be.
        """
        mode, origin = record.policy_or(self._policy).mode, _origin(record, verdict.reason)
        if mode == "enforce" and record.verdict is None:
            record.verdict = verdict
        if not record.claim():
            return
        if is_to_count and self._counter and self._counter.count(EventName.CONNECTION_CLOSED, origin):
            return
        known = _common(record) | _numbers(verdict, 0, "", mode)
        event = make_event(EventName.CONNECTION_CLOSED, site=origin, **{**known, **fields})
        self._tell(event._replace(level="info") if verdict.reason in KNOWN_TO_PROGRAM else event, now)

    def ghost_leak(self, row: SocketFacts, holders: Sequence[Holder]) -> None:
        """Tells of a connection that this process has closed while children keep it."""
        leak = {
            "cause": Cause.SHARED,
            "remedy": Cause.SHARED.remedy,
            "state": row.state_name,
            "unread": row.unread,
            "age_seconds": age_of(row).seconds,
        }
        self._tell(make_event(EventName.LEAK_DETECTED, site="shared", **_ghost_fields(row, holders), **leak), self.now)

    def ghost_end(self, row: SocketFacts, verdict: Verdict, holders: Sequence[Holder]) -> None:
        """Tells that such a connection was ended."""
        fields = _ghost_fields(row, holders) | _numbers(verdict, row.unread, "shut_down", self._policy.mode)
        fields["owner"] = "closed here, kept by " + ", ".join(fields.pop("holders"))
        self._tell(make_event(EventName.CONNECTION_CLOSED, site="shared", **fields), self.now)

    def stuck(self, queue: StuckQueue, descriptors: DescriptorWatch) -> None:
        """Tells of an accept queue that nobody works off."""
        fields = {"fd_used": descriptors.used, "fd_limit": descriptors.limit, "pid": os.getpid(), **queue._asdict()}
        self._tell(make_event(EventName.ACCEPT_QUEUE_STUCK, site=queue.local, **fields), self.now)

    def limit_near(self, descriptors: DescriptorWatch, n_dead: int) -> None:
        """Tells that descriptors run short."""
        fields = {"fd_used": descriptors.used, "fd_limit": descriptors.limit, "n_dead": n_dead, "pid": os.getpid()}
        self._tell(make_event(EventName.FD_LIMIT_NEAR, **fields), self.now)

    def stalled(self, stalls: Iterable[Stall]) -> None:
        """Tells of event loops that do not come round."""
        for stall in stalls:
            fields = {"seconds": stall.seconds, "thread": stall.thread, "where": stall.where, "pid": os.getpid()}
            self._tell(make_event(EventName.LOOP_STALLED, site=stall.where[:1], **fields), self.now)

    def _say(self, name: EventName, record: Record, **fields: Any) -> None:
        self._tell(make_event(name, site=record.site, **(_common(record) | fields)), self.now)


def _origin(record: Record, reason: Reason | None) -> Hashable:
    """Tells what events have in common of which only so many are told; those that are no warning do not use up one."""
    return (record.site, reason) if record.site is None or reason in KNOWN_TO_PROGRAM else record.site


def _numbers(verdict: Verdict, unread: int, step: str, mode: str) -> dict[str, object]:
    return {
        "reason": verdict.reason, "setting": verdict.setting, "limit": verdict.limit,
        "seconds": verdict.seconds, "unread": unread, "step": step, "mode": mode,
    }  # fmt: skip


def _common(record: Record) -> dict[str, object]:
    """The fields that every event of a connection has."""
    return (record.names or Names(None, None))._asdict() | {
        "fd": record.fd,
        "cookie": record.cookie,
        "side": _SIDES[record.is_server],
        "created_at": _frames_of(record.site) if record.site is not None else None,
        "pid": os.getpid(),
    }


@functools.lru_cache(maxsize=256)
def _frames_of(site: Site) -> tuple[str, ...]:
    """Describes a site; that takes 20 us and more, and a wrapper may tell of one connection after the other."""
    return site.frames()


def _ghost_fields(row: SocketFacts, holders: Sequence[Holder]) -> dict[str, Any]:
    return {
        "local": row.local,
        "remote": row.remote,
        "cookie": row.cookie,
        "side": Side.SERVER,
        "pid": os.getpid(),
        "holders": tuple(f"process {holder.pid} (fd {holder.fd})" for holder in holders),
    }


def _leak_fields(record: Record, leak: Leak | None) -> dict[str, object]:
    if leak is None:
        connection = record.connection
        return {"state": TcpState(connection.state).name, "unread": connection.unread} if connection else {}
    return {
        "cause": leak.cause,
        "age_seconds": leak.age_seconds,
        "state": leak.state,
        "unread": leak.connection.unread,
        "remedy": leak.remedy,
    }


def _find_leaks() -> dict[int | None, Leak]:
    try:
        return {leak.cookie: leak for leak in find_leaks(look_at_self(), min_age=0.0, pids=[os.getpid()])}
    except (SockguardError, OSError):
        return {}  # no descriptor is left to ask with
