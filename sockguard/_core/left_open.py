"""What becomes of a connection whose handler was told of its end, and left it open? Pure: looks in, fate out.

`select()` reports a connection that has ended in each round, as there is always something to
read: the end. A handler that neither reads nor closes makes of that a loop that takes all of
a CPU. What tells such a spin from work is that nothing changes from look to look: no byte was
read, none acknowledged, and the handler waits for the same events as before.

A spin is stopped by reporting the connection less often: it rests, for a while that doubles each
time. Nothing is lost by that, whatever the handler was up to. Closing would not be so harmless.
"""

from enum import Enum
from typing import NamedTuple

from sockguard._core.connection import Activity
from sockguard._core.facts import TcpState
from sockguard._core.policy import Policy

__all__ = ["Fate", "Patience", "fate_of", "look_again", "rest_of"]

LOOKS = 8
"""Looks at which nothing has changed, each after the handler was told, from which on it is a spin."""
SPIN_AFTER = 0.005
"""Seconds that a spin takes at least: some hundred rounds of a loop that does nothing else."""
UNREAD_SPIN_AFTER = 1.0
"""The same if bytes are unread. A handler that lets them lie may do so on purpose, to slow its peer down."""
FIRST_REST, LONGEST_REST = 0.25, 8.0
"""Seconds for which a connection is not reported. Ten thousand that rest for 8 s are 1,250 events per second."""

_CLOSE, _CLOSE_WAIT = int(TcpState.CLOSE), int(TcpState.CLOSE_WAIT)


class Fate(Enum):
    """What is to be done with it."""

    KEEP = "keep"
    SOON = "soon"
    """It is to be closed as soon as its handler knows: tell him, and look again right after that."""
    REST = "rest"
    """It is a spin: do not report it for a while."""
    CLOSE = "close"


class Patience(NamedTuple):
    """What earlier looks at one connection have shown."""

    mark: tuple[int, ...]
    """What would change if anybody did anything."""
    is_eof_unread: bool
    since: float
    is_told: bool = False
    """Its handler knows that it has ended."""
    n_looks: int = 1
    n_rests: int = 0


def look_again(before: Patience | None, activity: Activity, events: int, now: float) -> Patience:
    """Adds a look, after which its handler is told; starts anew if anything has changed.

    A handler knows of the end if he was told and has read it, which shows, or was told and
    has changed nothing. That it is not there to be read any more is no proof: a FIN that
    came with data is taken out of the queue with the last byte of it.

    Args:
        events: What the handler waits for.
    """
    read = activity.received - activity.unread
    mark = (activity.state, read, activity.unread, activity.acked, activity.unsent, events)
    if before is None or before.mark != mark:
        return Patience(mark, activity.eof_unread, now)
    if before.is_eof_unread and not activity.eof_unread:
        return Patience(mark, is_eof_unread=False, since=now, is_told=True)
    return before._replace(n_looks=before.n_looks + 1, is_told=True)


def fate_of(activity: Activity, patience: Patience, policy: Policy, now: float, *, is_ended: bool = False) -> Fate:
    """Decides what becomes of a connection after a look at it.

    What is over in both directions is closed as soon as its handler knows, and what is half
    closed if the policy says so; but not while bytes are unread. What is over keeps those for
    twice `fin_timeout` without a change. (What is half closed then, the guard ends: `is_ended`.)

    Args:
        is_ended: The guard has ended it, by a clause of the policy.
    """
    is_hung_up = activity.state in (_CLOSE, _CLOSE_WAIT)
    if policy.mode == "observe" or not (is_ended or is_hung_up):
        return Fate.KEEP
    is_strict = policy.half_close == "close"
    if is_ended or (not activity.unread and (activity.state == _CLOSE or (is_strict and not activity.eof_unread))):
        return Fate.CLOSE if patience.is_told else Fate.SOON
    if is_strict and not activity.unread and patience.n_rests:
        return Fate.CLOSE  # its end is not even read
    if activity.state == _CLOSE and patience.is_told and _is_late(patience, policy, now):
        return Fate.CLOSE  # there is nothing left that the guard could shut down
    if _is_spinning(activity, patience, now):
        return Fate.REST
    return Fate.SOON if is_strict and patience.n_looks < LOOKS else Fate.KEEP


def _is_late(patience: Patience, policy: Policy, now: float) -> bool:
    """Tells whether unread bytes have been kept for long enough: as `_dead_since` in decide.py, for an event loop."""
    if policy.fin_timeout is None or policy.half_close == "allow":
        return False
    return now - patience.since >= 2 * policy.fin_timeout


def _is_spinning(activity: Activity, patience: Patience, now: float) -> bool:
    if patience.n_rests:
        return True  # it was told once more, and did nothing
    least = UNREAD_SPIN_AFTER if activity.unread else SPIN_AFTER
    return patience.n_looks >= LOOKS and now - patience.since >= least


def rest_of(patience: Patience) -> float:
    """Tells for how many seconds a connection rests now."""
    return min(FIRST_REST * 2.0 ** min(patience.n_rests, 16), LONGEST_REST)
