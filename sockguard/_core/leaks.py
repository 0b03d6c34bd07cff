"""Which connections are leaked, and why: the leak predicate, and what a leak tells of itself.

A leak is a connection whose peer has hung up and that stands still for longer than
`min_age`: in CLOSE_WAIT without progress, accepted or not, or dead (CLOSE) while its
descriptor is still open. The causes are in `_core/causes.py`.
"""

import math
from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

from sockguard._core.causes import RULES, Case, Cause, Known, Stall, cause_of
from sockguard._core.facts import LEAK_STATES, Address, Holder, Snapshot, SocketFacts
from sockguard._core.inference import Age, Side, age_of, opened_by_us
from sockguard._core.listeners import Listeners

__all__ = ["LEAK_AFTER", "RULES", "Cause", "Known", "Leak", "Stall", "find_leaks"]

LEAK_AFTER = 10.0
"""Seconds of standstill after which a connection counts as leaked, if nothing else is said.

Long enough that a handler which works for a while on a half-closed connection, and a
pool that is about to reuse one, pass unreported; HikariCP's threshold may not go below 2 s,
HAProxy and nginx give a closing peer 30 s.
"""


class Leak(NamedTuple):
    """One leaked connection: which, why, for how long, and who holds it."""

    connection: SocketFacts
    cause: Cause
    side: Side
    age: Age
    owner: Holder | None
    """The holder with the lowest pid of those asked for; for a connection that was never
    accepted, that of the listener; None if no process is known."""
    holders: tuple[Holder, ...]
    """Every process that is known to hold the connection."""
    listeners: tuple[SocketFacts, ...]
    """Where it came in, if it is ours to serve and the listener still exists."""
    created_at: tuple[str, ...] | None = None
    """Where the program opened it, innermost call first; known from inside a process only."""
    held_by: tuple[str, ...] | None = None
    """Which objects refer to it; known from inside a process only."""
    waits_at: str | None = None
    """What the code that owns it does; known from inside a process only."""
    stalled: Stall | None = None
    """What its event loop or thread hangs in; known from inside a process only."""
    ended_because: str | None = None
    """Why the guard ended it, if it did; known from inside a process only."""

    def __repr__(self) -> str:
        arrow = "->" if self.side is Side.CLIENT else "<-"
        age = "age unknown" if self.age_seconds is None else f"{self.age_seconds:.1f} s"
        return f"Leak({self.cause.value}, pid={self.pid}, fd={self.fd}, {self.local} {arrow} {self.remote}, {age})"

    @property
    def pid(self) -> int | None:
        """The process to look at."""
        return self.owner.pid if self.owner else None

    @property
    def fd(self) -> int | None:
        """The descriptor in `pid`; None if it was never accepted."""
        return self.owner.fd if self.owner and self.inode else None

    @property
    def inode(self) -> int | None:
        """The socket's inode; None if it was never accepted."""
        return self.connection.inode or None

    @property
    def cookie(self) -> int | None:
        """SO_COOKIE of the socket; None where only procfs could be read."""
        return self.connection.cookie

    @property
    def state(self) -> str:
        """The TCP state: CLOSE_WAIT, or CLOSE of a dead descriptor."""
        return self.connection.state_name

    @property
    def local(self) -> Address:
        """The address of our end."""
        return self.connection.local

    @property
    def remote(self) -> Address | None:
        """The address of the peer; None where the kernel does not tell it."""
        return self.connection.remote

    @property
    def age_seconds(self) -> float | None:
        """Seconds since the peer was last heard of; read it together with `age_is`."""
        return self.age.seconds

    @property
    def age_is(self) -> str:
        """How far to trust it: exact, about, at_least or unknown."""
        return self.age.kind.value

    @property
    def recv_queue(self) -> int:
        """Bytes that wait to be read, an unread FIN counted as one."""
        return self.connection.recv_queue

    @property
    def send_queue(self) -> int:
        """Bytes that the peer has not acknowledged."""
        return self.connection.send_queue

    @property
    def remedy(self) -> str:
        """What to do about it."""
        n_processes = len({holder.pid for holder in self.holders})
        if n_processes < 2 or self.cause is Cause.SHARED:  # noqa: PLR2004 - two make it shared
            return self.cause.remedy
        return f"{self.cause.remedy} It is shared: all {n_processes} processes that hold it must close it."


class _Question(NamedTuple):
    """What is asked of every candidate alike."""

    snapshot: Snapshot
    listeners: Listeners
    pids: Collection[int] | None
    known: Mapping[int, Known]


def find_leaks(
    snapshot: Snapshot,
    *,
    min_age: float = LEAK_AFTER,
    pids: Collection[int] | None = None,
    known: Mapping[int, Known] | None = None,
) -> list[Leak]:
    """Finds the leaked connections of a snapshot, the oldest of each process first.

    A connection whose age cannot be told is listed: silence would hide it.

    Args:
        min_age: Seconds without progress from which on a connection is leaked.
        pids: Only connections that one of these processes holds, has not accepted, or
            accepted and closed while its forked children kept them (`shared`). None: all,
            also those whose holder is not known.
        known: What the processes themselves tell, by cookie.
    """
    question = _Question(snapshot, Listeners(snapshot.sockets), pids, known or {})
    leaks = [
        leak
        for facts in snapshot.sockets
        if facts.state in LEAK_STATES
        and _is_older(age := age_of(facts), min_age)
        and (leak := _judge(question, facts, age))
    ]
    return sorted(leaks, key=_by_process_then_oldest)


def _is_older(age: Age, min_age: float) -> bool:
    return age.seconds is None or age.seconds >= min_age


def _judge(question: _Question, facts: SocketFacts, age: Age) -> Leak | None:
    snapshot, pids, listeners = question.snapshot, question.pids, question.listeners.of(facts)
    holders = snapshot.holders.get(facts.inode, ()) if facts.inode else ()
    queues = listeners if facts.inode else [s for s in listeners if s.recv_queue] or listeners
    known = question.known.get(facts.cookie or 0, Known())
    case = Case(facts, _side_of(facts, listeners), holders, listeners, snapshot, known)
    cause = cause_of(case)
    responsible = holders if facts.inode else tuple(_holders_of(snapshot, queues))
    owner = min(responsible, default=None)
    if pids is not None:
        asked_for = [holder for holder in responsible if holder.pid in pids]
        is_of_parent = cause is Cause.SHARED and any(h.pid in pids for h in _holders_of(snapshot, listeners))
        if not asked_for and not is_of_parent:
            return None
        owner = min(asked_for, default=owner)
    leak = Leak(facts, cause, case.side, age, owner, holders, tuple(queues))
    return leak._replace(
        created_at=known.created_at,
        held_by=known.held_by,
        waits_at=known.owner,
        stalled=known.stalled,
        ended_because=known.reason if known.ended_by_guard else None,
    )


def _holders_of(snapshot: Snapshot, sockets: list[SocketFacts]) -> Iterator[Holder]:
    for facts in sockets:
        yield from snapshot.holders.get(facts.inode, ())


def _side_of(facts: SocketFacts, listeners: list[SocketFacts]) -> Side:
    by_counts = opened_by_us(facts)
    is_client = not listeners and facts.inode != 0 if by_counts is None else by_counts
    return Side.CLIENT if is_client else Side.SERVER


def _by_process_then_oldest(leak: Leak) -> tuple[float, float, int]:
    pid, fd, _ = leak.owner or (math.inf, 0, "")
    return (pid, -(leak.age.seconds or 0.0), fd)
