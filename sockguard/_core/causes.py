"""Why does a connection leak? The ordered table of causes; the first rule that applies names the cause.

`docs/reference/causes.md` explains each cause to users.
"""

from collections.abc import Callable
from enum import StrEnum
from typing import NamedTuple

from sockguard._core.facts import Holder, Snapshot, SocketFacts, TcpState
from sockguard._core.inference import Side
from sockguard._core.listeners import topmost
from sockguard.errors import InternalError

__all__ = ["RULES", "TLS_ALERT_SIZES", "Case", "Cause", "Known", "Rule", "Stall", "cause_of"]

_CLOSE = TcpState.CLOSE

TLS_ALERT_SIZES = frozenset({7, 23, 24, 31, 37, 53, 69})
"""Sizes in bytes of one TLS alert record, such as the close_notify before a FIN.

5 bytes of header and 2 of alert, then what the cipher adds: nothing, ChaCha20 in TLS 1.2,
any AEAD in TLS 1.3, AES-GCM in TLS 1.2, CBC with SHA-1 (TLS 1.0, 1.2) and with SHA-256.
"""


class Stall(NamedTuple):
    """An event loop or a thread that is blocked."""

    seconds: float
    """For how long."""
    where: tuple[str, ...] = ()
    """The lines in which it is, innermost call first."""


class Known(NamedTuple):
    """What only the process itself can tell of one of its connections, as far as it could be found out."""

    created_at: tuple[str, ...] | None = None
    """Where the program opened it, innermost call first."""
    held_by: tuple[str, ...] | None = None
    """Which objects refer to it."""
    ended_by_guard: bool = False
    """True where the guard ended it, and waits for the owner to close the descriptor."""
    stalled: Stall | None = None
    """What the event loop or thread that owns it hangs in."""
    owner: str | None = None
    """What the code that owns it does: "handle() waits at app.py:12"."""
    reason: str | None = None
    """Why the guard ended it."""


class Cause(StrEnum):
    """Why a connection leaks, as far as the kernel's facts tell."""

    NOT_ACCEPTED = "not_accepted"
    SHARED = "shared"
    ENDED_BY_GUARD = "ended_by_guard"
    DEAD_FD = "dead_fd"
    STALLED = "stalled"
    STALE_CLIENT = "stale_client"
    UNREAD = "unread"
    EOF_UNREAD = "eof_unread"
    EOF_IGNORED = "eof_ignored"

    @property
    def remedy(self) -> str:
        """What to do about it, in a sentence or two."""
        return next(rule.remedy for rule in RULES if rule.cause is self)


class Case(NamedTuple):
    """What the rules look at, for one candidate."""

    facts: SocketFacts
    side: Side
    holders: tuple[Holder, ...]
    listeners: list[SocketFacts]
    snapshot: Snapshot
    known: Known = Known()


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
        Cause.ENDED_BY_GUARD,
        lambda case: case.known.ended_by_guard,
        "The guard ended this connection, and only its descriptor is left: "
        "have what holds it close the socket when recv() returns b'' or fails.",
    ),
    Rule(
        Cause.DEAD_FD,
        lambda case: case.facts.state == _CLOSE,
        "The connection is gone and only its descriptor is left: close the socket when recv() returns b'' or fails.",
    ),
    Rule(
        Cause.STALLED,
        lambda case: case.known.stalled is not None,
        "The event loop or thread that owns it is blocked: see in which line, and "
        "give that call a timeout, or move it to a thread of its own.",
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
"""The causes in the order in which they are tried. The last one takes what is left."""


def cause_of(case: Case) -> Cause:
    """Names the cause of a leak."""
    for rule in RULES:
        if rule.applies(case):
            return rule.cause
    msg = f"no rule applies to {case.facts}"  # the last one always does
    raise InternalError(msg)
