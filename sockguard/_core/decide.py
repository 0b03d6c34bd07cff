"""What should happen to a connection, and when to ask again? Pure: facts and policy in, verdict out.

Two tables. `TIMEOUTS` says by which clauses of the policy a connection may be ended, and
when each falls due. The ladder says how it is ended: one step at a time, each only if the
one before did not do it, the gentlest first (docs/explanation/enforcement.md).

Laws, held by tests/core/test_decide.py: every connection gets a verdict; only differences
of instants count; `next_at` is later than now; what is due stays due as long as nothing
moves; a byte that moves never brings the end nearer (but for `min_receive_rate`, which measures
bytes that move).
"""

import math
from collections.abc import Callable
from enum import Enum
from typing import NamedTuple

from sockguard._core.connection import Connection, Reason, Step
from sockguard._core.facts import TcpState
from sockguard._core.policy import Policy

__all__ = [
    "OWNER_PATIENCE",
    "TIMEOUTS",
    "Action",
    "Reason",
    "Verdict",
    "decide",
    "first_look_after",
    "is_due",
    "next_at",
]

_CLOSE, _CLOSE_WAIT = int(TcpState.CLOSE), int(TcpState.CLOSE_WAIT)

OWNER_PATIENCE = 1.0
"""Seconds in which an event loop that was asked to abort should have done so. One that has
not is blocked, and the connection is shut down from outside."""

READING_TIME = 60.0
"""Seconds for reading what is unread after our FIN, where no `fin_timeout` says so: its default."""

LOOKS_PER_TIMEOUT = 8
"""How often a connection that moves is looked at within its shortest time-out. The kernel does not record
when the application last read, so the end comes late by the time between two looks: by one such part for
a connection that moves now and again, by a whole time-out for one that stirs once in a long silence."""

SETTINGS_OF_DEMANDS = {"heartbeat": "heartbeat.timeout"}
"""The field of the policy behind a demand of the program; a deadline has none."""

EOF_LOOKS_EVERY = 1.0
"""Seconds between two looks at a connection that `half_close="close"` ends as soon as the EOF is read:
that is no movement of bytes, and nobody tells of it. A look costs some 10 us."""

GOLDEN = 0.6180339887498949
"""Multiples of it, without their whole part, lie evenly spread: cookies count up, jitter must not."""


class Action(Enum):
    """What the engine is to do now."""

    KEEP = "keep"
    SEND_FIN = "send_fin"
    """shutdown(SHUT_WR) on a verified duplicate: nothing that the peer sent is lost."""
    ASK_OWNER = "ask_owner"
    """transport.abort() on the loop's own thread: it closes the descriptor too."""
    SHUT_DOWN = "shut_down"
    """shutdown(SHUT_RDWR) on a verified duplicate: works on blocked loops and threads."""


class Verdict(NamedTuple):
    """What to do, why, and the numbers that led to it."""

    action: Action
    reason: Reason | None = None
    setting: str | None = None
    """The policy's field."""
    limit: float | None = None
    """Its value."""
    seconds: float | None = None
    """For how long the connection has stood still (or lived) by that clause."""


KEEP = Verdict(Action.KEEP)


class Timeout(NamedTuple):
    """One clause by which a connection may be ended."""

    reason: Reason
    setting: str
    since: Callable[[Connection, Policy], float | None]
    """From which instant the setting counts; None if the clause does not apply."""


def _hung_up_since(c: Connection, policy: Policy) -> float | None:
    return c.stands_since if c.state == _CLOSE_WAIT and policy.half_close != "allow" else None


def _dead_since(c: Connection, policy: Policy) -> float | None:
    """Tells since when a connection is over; what died of a step of ours has its reason already.

    What it has received stays readable, and is lost if an event loop lets go of it. So with bytes unread
    the time counts from one `fin_timeout` later, as in CLOSE_WAIT; and not at all where a half-closed
    connection may stand for ever, as one that was closed by both ends looks the same.
    """
    if c.state != _CLOSE or c.step is not Step.NONE or c.stands_since is None:
        return None
    if not c.unread:
        return c.stands_since
    return None if policy.half_close == "allow" else c.stands_since + (policy.fin_timeout or 0.0)


def _live_since(instant: Callable[[Connection], float | None]) -> Callable[[Connection, Policy], float | None]:
    return lambda c, _: None if c.state == _CLOSE else instant(c)


def _too_slow_since(c: Connection, policy: Policy) -> float | None:
    """Tells since when a request trickles in too slowly.

    A client that sent its request and waits in silence is not slow, nor is one that is
    being answered: what is measured is bytes that still come when the grace is over. After
    the peer's FIN none come any more.
    """
    if policy.min_receive_rate is None or c.trickle is None or c.is_hung_up:
        return None
    began_at, began_with = c.trickle
    seconds = c.received_at - began_at
    is_slow = c.received - began_with < policy.min_receive_rate * seconds
    return began_at if is_slow and seconds >= policy.receive_rate_grace else None


def _lifetime_since(c: Connection, policy: Policy) -> float | None:
    """Tells from when its lifetime counts: later for some, so that not all end at once."""
    if policy.max_lifetime is None or c.state == _CLOSE:
        return None
    return c.opened_at + policy.max_lifetime * (policy.max_lifetime_jitter or 0.0) * (c.cookie * GOLDEN % 1)


TIMEOUTS: tuple[Timeout, ...] = (
    Timeout(Reason.HALF_CLOSED, "fin_timeout", _hung_up_since),
    Timeout(Reason.DEAD, "fin_timeout", _dead_since),
    Timeout(
        Reason.FIRST_BYTE,
        "first_byte_timeout",
        _live_since(lambda c: c.opened_at if c.is_server and not c.received else None),
    ),
    Timeout(Reason.IDLE, "idle_timeout", _live_since(lambda c: max(c.moved_at, c.received_at))),
    # With bytes unread, the peer's silence may be our own doing: our window is full.
    Timeout(
        Reason.READ_IDLE,
        "read_idle_timeout",
        _live_since(lambda c: max(c.received_at, c.unread_at) if not c.unread else None),
    ),
    Timeout(Reason.WRITE_STALLED, "write_stall_timeout", _live_since(lambda c: c.stalled_at if c.unsent else None)),
    Timeout(Reason.RECEIVE_RATE, "receive_rate_grace", _too_slow_since),
    Timeout(Reason.LIFETIME, "max_lifetime", _lifetime_since),
)
"""The clauses, in the order in which one is named if several are due."""
_OF_SHORT_LIFE = (Reason.FIRST_BYTE, Reason.IDLE, Reason.READ_IDLE, Reason.LIFETIME)
_EXPECTED_TIMEOUTS = tuple(timeout for timeout in TIMEOUTS if timeout.reason not in _OF_SHORT_LIFE)
"""Those that hold for a connection of which the program has said that it is to live long."""


def decide(connection: Connection, policy: Policy, now: float) -> Verdict:
    """Decides what to do with a connection.

    Args:
        connection: With a look taken at `now`, or shortly before.
        policy: What its owner wants.
        now: The monotonic clock.
    """
    verdict = _first_due(connection, policy, now)
    if connection.step is Step.NONE:
        return verdict._replace(action=_first_step(connection)) if verdict.reason else KEEP
    due_at = _next_step_at(connection, policy)
    if due_at is None or due_at > now:
        return KEEP
    is_next_abort = connection.step is Step.FIN_SENT and connection.has_loop
    return verdict._replace(action=Action.ASK_OWNER if is_next_abort else Action.SHUT_DOWN)


def is_due(connection: Connection, policy: Policy, now: float) -> bool:
    """Tells whether a connection is to be ended by any clause, whatever was done about it before."""
    return _first_due(connection, policy, now).reason is not None


def _first_due(c: Connection, policy: Policy, now: float) -> Verdict:
    if _may_close_at_eof(c, policy) and c.unread == 0 and not c.eof_unread:
        return Verdict(Action.KEEP, Reason.HALF_CLOSED, "half_close", None, now - (c.hung_up_at or 0.0))
    if c.demand is not None and c.demand.due_at <= now and c.state != _CLOSE:
        setting = SETTINGS_OF_DEMANDS.get(c.demand.reason)
        return Verdict(Action.KEEP, c.demand.reason, setting, c.demand.limit, now - c.demand.since)
    for timeout in _timeouts(c):
        since, limit = timeout.since(c, policy), getattr(policy, timeout.setting)
        if since is not None and limit is not None and since + limit <= now:
            stands_since = c.stands_since if timeout.reason is Reason.DEAD else None
            return Verdict(Action.KEEP, timeout.reason, timeout.setting, limit, now - (stands_since or since))
    return KEEP


def _timeouts(c: Connection) -> tuple[Timeout, ...]:
    return _EXPECTED_TIMEOUTS if c.is_expected else TIMEOUTS


def _may_close_at_eof(c: Connection, policy: Policy) -> bool:
    return policy.half_close == "close" and c.state == _CLOSE_WAIT


def _first_step(c: Connection) -> Action:
    if c.state == _CLOSE:
        return Action.ASK_OWNER if c.has_loop else Action.KEEP
    if c.unread:
        return Action.SEND_FIN
    return Action.ASK_OWNER if c.has_loop else Action.SHUT_DOWN


def _next_step_at(c: Connection, policy: Policy) -> float | None:
    if c.step is Step.FIN_SENT:
        # Only one that has hung up leaves an end of what there is to read.
        since = max(c.stepped_at, c.moved_at) if c.is_hung_up else c.stepped_at
        return since + (policy.fin_timeout or READING_TIME)
    if c.step is Step.OWNER_ASKED and c.state != _CLOSE:
        return c.stepped_at + OWNER_PATIENCE
    return None


def next_at(connection: Connection, policy: Policy, now: float) -> float | None:
    """Tells when the connection must be looked at and decided on again; None for never.

    Asking changes nothing. While a connection moves it is looked at several times within
    its shortest time-out; while it is quiet, only when that is over.
    """
    if connection.step is not Step.NONE:
        due_at = _next_step_at(connection, policy)
        return None if due_at is None else max(due_at, math.nextafter(now, math.inf))
    clauses = _timeouts(connection)
    dues = [due for timeout in clauses if (due := _due_at(connection, policy, timeout)) is not None and due > now]
    spans = [span for timeout in clauses if (span := _span(connection, policy, timeout)) is not None]
    if connection.demand is not None:
        dues.append(connection.demand.due_at)
    if _may_close_at_eof(connection, policy):
        dues.append(now + EOF_LOOKS_EVERY)
    if spans and not connection.is_quiet:
        dues.append(now + min(spans) / LOOKS_PER_TIMEOUT)
    elif spans and not dues:
        dues.append(now + min(spans))
    return max(min(dues), math.nextafter(now, math.inf)) if dues else None


def first_look_after(policy: Policy) -> float | None:
    """Tells how long after its opening a connection must first be looked at; None if not before its peer hangs up.

    A part of the shortest time-out: so long nothing of it is kept, and what has moved until
    then is taken to have moved just then.
    """
    spans = [
        getattr(policy, timeout.setting)
        for timeout in TIMEOUTS
        if timeout.setting not in ("fin_timeout", "receive_rate_grace")
    ]
    spans.append(policy.receive_rate_grace if policy.min_receive_rate is not None else None)
    return min((span / LOOKS_PER_TIMEOUT for span in spans if span is not None), default=None)


def _due_at(c: Connection, policy: Policy, timeout: Timeout) -> float | None:
    since, limit = timeout.since(c, policy), getattr(policy, timeout.setting)
    return None if since is None or limit is None else since + limit


def _span(c: Connection, policy: Policy, timeout: Timeout) -> float | None:
    """The span of a clause that may come to apply although it does not now (bytes may arrive, or queue up)."""
    if timeout.setting == "fin_timeout" and not c.is_hung_up:
        return None  # the kernel tells when the peer hangs up
    if timeout.setting == "receive_rate_grace" and policy.min_receive_rate is None:
        return None
    limit = getattr(policy, timeout.setting)
    return None if limit is None else float(limit)
