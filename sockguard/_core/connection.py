"""What is known of one guarded connection: what the kernel says now, and what that tells of its past.

The kernel keeps byte counts and a few stamps. Two looks at the counts tell whether the
connection moved in between, and `observe` turns looks into a history. Progress outwards is
what the peer acknowledged, not what was sent: retransmissions are no progress. Progress
inwards is what the application has *read*, not what arrived: one that works off a full
queue is alive, however long ago the last packet came.
"""

from enum import IntEnum, StrEnum
from typing import NamedTuple

from sockguard._core.facts import TcpState

__all__ = ["Activity", "Connection", "Demand", "Reason", "Step", "begin", "observe"]

_CLOSE, _CLOSE_WAIT = int(TcpState.CLOSE), int(TcpState.CLOSE_WAIT)


class Activity(NamedTuple):
    """What the kernel says of one connection at one look: bytes, and seconds ago."""

    state: int
    """A `TcpState` number."""
    received: int
    """Bytes that arrived since the connection was made, the FIN counted as one."""
    acked: int
    """Bytes of ours that the peer acknowledged, SYN and FIN counted as one each."""
    unread: int
    """Bytes that wait for the application, the FIN not counted."""
    unsent: int
    """Bytes that the peer has not acknowledged yet."""
    since_received: float
    since_heard: float
    """Since the peer's last packet, of whatever kind."""
    eof_unread: bool = False
    """The peer's FIN waits to be read. Only told where it was asked for."""


class Reason(StrEnum):
    """Why a connection is ended."""

    HALF_CLOSED = "half_closed"
    DEAD = "dead"
    IDLE = "idle"
    READ_IDLE = "read_idle"
    WRITE_STALLED = "write_stalled"
    FIRST_BYTE = "first_byte"
    RECEIVE_RATE = "receive_rate"
    LIFETIME = "lifetime"
    DEADLINE = "deadline"
    """The program's own, for one request."""
    HEARTBEAT = "heartbeat"
    FAILED = "failed"
    """By a wrapper, on the call that found the connection to be over."""
    LEFT_OPEN = "left_open"
    """By a wrapper, as the handler that it was given to has ended."""
    PRESSURE = "pressure"
    """At accept(), before anybody else has it."""
    CLOSE_STALLED = "close_stalled"
    """By a wrapper that closes, as what was left to be sent went nowhere."""


class Demand(NamedTuple):
    """What the program itself demands of a connection, beside its policy: an end at an instant."""

    reason: Reason
    since: float
    limit: float
    """Seconds after `since`."""

    @property
    def due_at(self) -> float:
        """The instant at which the connection is to be ended."""
        return self.since + self.limit


class Step(IntEnum):
    """How far the guard has gone with ending a connection; docs/explanation/enforcement.md."""

    NONE = 0
    FIN_SENT = 1
    """shutdown(SHUT_WR): healed for TCP, and its owner may still read what is unread."""
    OWNER_ASKED = 2
    """The event loop was asked to abort the transport."""
    SHUT_DOWN = 3
    """shutdown(SHUT_RDWR): over. What is left is a descriptor of the owner's."""


class Connection(NamedTuple):
    """The history of one connection, as far as decisions need it; instants of the monotonic clock."""

    cookie: int
    is_server: bool
    """We accepted it."""
    has_loop: bool
    """An asyncio or uvloop transport owns it, which can be asked to let go."""
    opened_at: float
    looked_at: float
    state: int
    received: int
    acked: int
    unread: int
    unsent: int
    eof_unread: bool
    moved_at: float
    """Not before the last byte was acknowledged or read."""
    received_at: float
    """When the last byte arrived, or the connection was opened."""
    unread_at: float
    """The last look before which bytes were unread, or when the connection was opened: until then its
    peer may have been silent only because our window was full."""
    stalled_at: float
    """Since when nothing was acknowledged, while data was queued; the last look if none is."""
    hung_up_at: float | None
    """When the peer was first seen to have closed its side, or the connection to be over."""
    is_quiet: bool
    """Nothing moved between the last two looks."""
    trickle: tuple[float, int] | None = None
    """Since when, and from which count on, bytes have been arriving without an answer of ours."""
    step: Step = Step.NONE
    stepped_at: float = 0.0
    """When that step was taken."""
    demand: Demand | None = None
    is_expected: bool = False
    """The program has said that it is to live long."""

    @property
    def is_hung_up(self) -> bool:
        """Tells whether the peer has closed its side, or the connection is over."""
        return self.hung_up_at is not None

    @property
    def stands_since(self) -> float | None:
        """Since when it stands still after its peer hung up; None if that has not."""
        return None if self.hung_up_at is None else max(self.moved_at, self.hung_up_at)


def begin(  # noqa: PLR0913 - what a history begins with
    cookie: int, activity: Activity, *, opened_at: float, now: float, is_server: bool, has_loop: bool = False
) -> Connection:
    """Makes the history of a connection at the first look at it.

    Whatever moved before is taken to have moved just now: nothing is known of when.
    """
    nothing_moved = activity.received == 0 and activity.acked == 0
    moved_at = opened_at if nothing_moved else now
    return Connection(
        cookie=cookie,
        is_server=is_server,
        has_loop=has_loop,
        opened_at=opened_at,
        looked_at=now,
        state=activity.state,
        received=activity.received,
        acked=activity.acked,
        unread=activity.unread,
        unsent=activity.unsent,
        eof_unread=activity.eof_unread,
        moved_at=moved_at,
        received_at=max(opened_at, now - activity.since_received) if activity.received else opened_at,
        unread_at=now if activity.unread else opened_at,
        stalled_at=now,
        hung_up_at=now if activity.state in (_CLOSE, _CLOSE_WAIT) else None,
        is_quiet=nothing_moved,
    )


def observe(connection: Connection, activity: Activity, now: float) -> Connection:
    """Adds one look to a connection's history.

    When bytes were read is not recorded by the kernel: it may have been right now, so it
    is taken for now. A close may come late by that, never early.
    """
    read_before = connection.received - connection.unread
    was_read = activity.received - activity.unread != read_before
    was_acked = activity.acked != connection.acked
    arrived = activity.received != connection.received
    moved_at = connection.moved_at
    if was_read:
        moved_at = now
    elif was_acked:
        moved_at = max(moved_at, now - activity.since_heard)
    is_hung_up = activity.state in (_CLOSE, _CLOSE_WAIT)
    return connection._replace(
        looked_at=now,
        state=activity.state,
        received=activity.received,
        acked=activity.acked,
        unread=activity.unread,
        unsent=activity.unsent,
        eof_unread=activity.eof_unread,
        moved_at=moved_at,
        received_at=max(connection.received_at, now - activity.since_received) if arrived else connection.received_at,
        unread_at=now if connection.unread or activity.unread else connection.unread_at,
        stalled_at=_stalled_at(connection, activity, now),
        hung_up_at=(now if is_hung_up else None) if connection.hung_up_at is None else connection.hung_up_at,
        is_quiet=not (was_read or was_acked or arrived),
        trickle=_trickle(connection, activity.received, now, arrived=arrived, was_acked=was_acked),
    )


def _stalled_at(before: Connection, activity: Activity, now: float) -> float:
    """Tells since when nothing was acknowledged; if the queue may have been empty meanwhile, since now."""
    n_acked = activity.acked - before.acked
    if not activity.unsent or n_acked >= before.unsent:
        return now
    return max(before.stalled_at, now - activity.since_heard) if n_acked else before.stalled_at


def _trickle(
    connection: Connection, received: int, now: float, *, arrived: bool, was_acked: bool
) -> tuple[float, int] | None:
    """Marks where bytes begin to arrive without an answer: a request that is not complete yet."""
    if was_acked:
        return None
    if connection.trickle is None and arrived:
        return (now, received)
    return connection.trickle
