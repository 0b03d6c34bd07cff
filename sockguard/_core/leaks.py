"""Which connections are leaked, and why: the leak predicate and the ordered table of causes.

A leak is a connection whose peer has hung up and that stands still for longer than
`min_age`: in CLOSE_WAIT without progress, accepted or not, or dead (CLOSE) while its
descriptor is still open. `docs/reference/causes.md` explains each cause to users.
"""

import math
from collections.abc import Callable, Collection, Iterator
from enum import StrEnum
from typing import NamedTuple

from sockguard._core.facts import LEAK_STATES, Address, Holder, Snapshot, SocketFacts, TcpState
from sockguard._core.inference import Age, Side, age_of, opened_by_us
from sockguard._core.listeners import Listeners, topmost
from sockguard.errors import InternalError

__all__ = ["LEAK_AFTER", "RULES", "Cause", "Leak", "find_leaks"]

_CLOSE = TcpState.CLOSE

LEAK_AFTER = 10.0
"""Seconds of standstill after which a connection counts as leaked, if nothing else is said.

Long enough that a handler which works for a while on a half-closed connection, and a
pool that is about to reuse one, pass unreported; HikariCP's threshold may not go below 2 s,
HAProxy and nginx give a closing peer 30 s.
"""

TLS_ALERT_SIZES = frozenset({7, 23, 24, 31, 37, 53, 69})
"""Sizes in bytes of one TLS alert record, such as the close_notify before a FIN.

5 bytes of header and 2 of alert, then what the cipher adds: nothing, ChaCha20 in TLS 1.2,
any AEAD in TLS 1.3, AES-GCM in TLS 1.2, CBC with SHA-1 (TLS 1.0, 1.2) and with SHA-256.
"""


class Cause(StrEnum):
    """Why a connection leaks, as far as the kernel's facts tell."""

    NOT_ACCEPTED = "not_accepted"
    SHARED = "shared"
    DEAD_FD = "dead_fd"
    STALE_CLIENT = "stale_client"
    UNREAD = "unread"
    EOF_UNREAD = "eof_unread"
    EOF_IGNORED = "eof_ignored"

    @property
    def remedy(self) -> str:
        """What to do about it, in a sentence or two."""
        return next(rule.remedy for rule in RULES if rule.cause is self)


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
        """The address of the peer; None where the kernel has forgotten it (`dead_fd`)."""
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


class Case(NamedTuple):
    """What the rules look at, for one candidate."""

    facts: SocketFacts
    side: Side
    holders: tuple[Holder, ...]
    listeners: list[SocketFacts]
    snapshot: Snapshot


class Rule(NamedTuple):
    """One row of the table of causes: the first whose `applies` holds names the cause."""

    cause: Cause
    applies: Callable[[Case], bool]
    remedy: str


def _was_kept_by_children(case: Case) -> bool:
    pids = {holder.pid for holder in case.holders}
    if len(pids) < 2:  # noqa: PLR2004 - two make it shared
        return False
    accepters = [holder for s in case.listeners for holder in case.snapshot.holders.get(s.inode, ())]
    top = topmost(accepters, case.snapshot.parents)
    return bool(top) and pids.isdisjoint(top)


def _is_stale_client(case: Case) -> bool:
    return case.side is Side.CLIENT and (case.facts.unread == 0 or case.facts.unread in TLS_ALERT_SIZES)


RULES: tuple[Rule, ...] = (
    Rule(
        Cause.NOT_ACCEPTED,
        lambda case: case.facts.inode == 0,
        "The application does not accept(): find what blocks its accept loop; "
        "if its descriptors are used up, end the other leaks that hold them.",
    ),
    Rule(
        Cause.SHARED,
        _was_kept_by_children,
        "Forked children kept it when the parent closed it: close inherited sockets in the child, "
        "and shutdown() before close() in the parent.",
    ),
    Rule(
        Cause.DEAD_FD,
        lambda case: case.facts.state == _CLOSE,
        "The connection is gone and only its descriptor is left: close the socket when recv() returns b'' or fails.",
    ),
    Rule(
        Cause.STALE_CLIENT,
        _is_stale_client,
        "The server hung up on an idle client: close the client after use, "
        "or let its pool drop idle connections before the server does.",
    ),
    Rule(
        Cause.UNREAD,
        lambda case: case.facts.unread > 0,
        "The application stopped reading: find what blocks or pauses this connection's reader, "
        "and give the work a timeout.",
    ),
    Rule(
        Cause.EOF_UNREAD,
        lambda case: case.facts.recv_queue == 1,
        "Nobody waits on this socket: the handler is busy or waits elsewhere (queue, lock, sleep). "
        "Wait for the peer's EOF too, or with a timeout.",
    ),
    Rule(
        Cause.EOF_IGNORED,
        lambda _: True,
        "The application read the EOF and did not close: close the socket when recv() returns b'', "
        "and in finally or with.",
    ),
)
"""The causes in the order in which they are tried. The last one takes what is left.

A cause that only code inside the process can see takes its place here as one more row.
"""


def find_leaks(snapshot: Snapshot, *, min_age: float = LEAK_AFTER, pids: Collection[int] | None = None) -> list[Leak]:
    """Finds the leaked connections of a snapshot, the oldest of each process first.

    A connection whose age cannot be told is listed: silence would hide it.

    Args:
        min_age: Seconds without progress from which on a connection is leaked.
        pids: Only connections that one of these processes holds, has not accepted, or
            accepted and closed while its forked children kept them (`shared`). None: all,
            also those whose holder is not known.
    """
    listeners = Listeners(snapshot.sockets)
    leaks = [
        leak
        for facts in snapshot.sockets
        if facts.state in LEAK_STATES
        and _is_older(age := age_of(facts), min_age)
        and (leak := _judge(snapshot, facts, age, listeners.of(facts), pids))
    ]
    return sorted(leaks, key=_by_process_then_oldest)


def _is_older(age: Age, min_age: float) -> bool:
    return age.seconds is None or age.seconds >= min_age


def _judge(
    snapshot: Snapshot, facts: SocketFacts, age: Age, listeners: list[SocketFacts], pids: Collection[int] | None
) -> Leak | None:
    holders = snapshot.holders.get(facts.inode, ()) if facts.inode else ()
    queues = listeners if facts.inode else [s for s in listeners if s.recv_queue] or listeners
    case = Case(facts, _side_of(facts, listeners), holders, listeners, snapshot)
    cause = _cause_of(case)
    responsible = holders if facts.inode else tuple(_holders_of(snapshot, queues))
    owner = min(responsible, default=None)
    if pids is not None:
        asked_for = [holder for holder in responsible if holder.pid in pids]
        is_of_parent = cause is Cause.SHARED and any(h.pid in pids for h in _holders_of(snapshot, listeners))
        if not asked_for and not is_of_parent:
            return None
        owner = min(asked_for, default=owner)
    return Leak(facts, cause, case.side, age, owner, holders, tuple(queues))


def _cause_of(case: Case) -> Cause:
    for rule in RULES:
        if rule.applies(case):
            return rule.cause
    msg = f"no rule applies to {case.facts}"  # the last one always does
    raise InternalError(msg)


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
