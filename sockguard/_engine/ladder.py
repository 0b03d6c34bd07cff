"""How is a verdict carried out? One step of the ladder at a time, on a socket that is surely the one that was meant.

Who makes sure of that is somebody else: the `Enforcer` by a verified duplicate, the
`StampedSweep` by the object that owns the socket.
"""

import errno
import socket
from collections.abc import Callable
from typing import Any

from sockguard._core.connection import Activity, Connection, Step, begin, observe
from sockguard._core.decide import KEEP, Action, Reason, Verdict, is_due
from sockguard._core.event_texts import describe_end
from sockguard._core.policy import Policy
from sockguard._engine.record import Record
from sockguard._engine.transports import ask_to_abort

__all__ = ["Ladder", "history", "let_go", "or_let_go", "set_reset", "spare_if_it_moved", "still_due"]

_STEPS = {
    Action.SEND_FIN: Step.FIN_SENT,
    Action.ASK_OWNER: Step.OWNER_ASKED,
    Action.SHUT_DOWN: Step.SHUT_DOWN,
}
_HOW = {Action.SEND_FIN: socket.SHUT_WR, Action.SHUT_DOWN: socket.SHUT_RDWR}
_RESETTABLE = frozenset({"idle", "read_idle", "write_stalled", "first_byte", "receive_rate", "lifetime"})
"""Reasons for which `on_timeout="reset"` applies: those of a peer that is still there."""


class Ladder:
    """Takes steps.

    Args:
        is_still_due: Asked on a loop's thread, right before its transport aborts: is it that connection,
            and is it due by this policy still? If so, and told to, it sees to it that the end will be a reset.
        on_step: Called after each step that was taken, with record and verdict.
        reset: Resets a connection that somebody else owns.
    """

    def __init__(
        self,
        is_still_due: Callable[[Record, Policy, bool], bool],
        on_step: Callable[[Record, Verdict], object],
        reset: Callable[[Any], object],
    ) -> None:
        self._is_still_due = is_still_due
        self._on_step = on_step
        self._reset = reset

    def take(self, record: Record, verdict: Verdict, sock: Any, policy: Policy) -> None:
        """Takes the step that a verdict says, or the next one if that cannot be.

        Args:
            sock: The connection, to be shut down.

        Raises:
            OSError: It cannot be shut down, and is not over either.
        """
        assert record.connection is not None  # noqa: S101 - it was looked at
        action, now = verdict.action, record.connection.looked_at
        _note_verdict(record, verdict, policy)
        is_reset = policy.on_timeout == "reset" and verdict.reason in _RESETTABLE
        if policy.mode == "observe":
            action = Action.SHUT_DOWN  # what it would have come to; said once
        elif action is Action.ASK_OWNER:
            action = self._ask_owner(record, policy, is_reset=is_reset)
        if policy.mode != "observe" and action in _HOW:
            self._shut_down(sock, action, is_reset=is_reset)
        if action is Action.SHUT_DOWN and policy.mode == "enforce":
            record.ended_at = now
        record.connection = record.connection._replace(step=_STEPS[action], stepped_at=now)
        self._on_step(record, (record.verdict or KEEP)._replace(action=action))

    def _ask_owner(self, record: Record, policy: Policy, *, is_reset: bool) -> Action:
        is_asked = ask_to_abort(record, lambda asked: self._is_still_due(asked, policy, is_reset), _without_loop)
        return Action.ASK_OWNER if is_asked else Action.SHUT_DOWN

    def _shut_down(self, sock: Any, action: Action, *, is_reset: bool) -> None:
        try:
            if action is Action.SHUT_DOWN and is_reset:
                self._reset(sock)
            else:
                sock.shutdown(_HOW[action])
        except OSError as error:
            if error.errno not in (errno.ENOTCONN, errno.EINVAL):  # it is over already; macOS says the latter
                raise


def _note_verdict(record: Record, verdict: Verdict, policy: Policy) -> None:
    """Takes note of why it ends, before it is ended: that wakes whoever waits for it, and he asks why."""
    if record.verdict is None and verdict.reason is not None:
        record.verdict = verdict
        if record.terms is not None and record.connection is not None:
            record.terms.met = record.connection.demand
    if record.terms is not None and policy.mode == "enforce" and verdict.action is not Action.SEND_FIN:
        record.terms.verdict = record.verdict


def or_let_go(verdict: Verdict, record: Record) -> Verdict:
    """Ends by its owner what is over: there is nothing to shut down any more, but a wrapper that can let go."""
    if verdict.reason is Reason.DEAD and verdict.action is Action.KEEP and hasattr(record(), "let_go"):
        return verdict._replace(action=Action.SHUT_DOWN)
    return verdict


def let_go(record: Record) -> None:
    """Tells a wrapper that its connection is over, so that it releases the descriptor as soon as that is safe."""
    tell = getattr(record(), "let_go", None)
    if tell is not None and record.verdict is not None:
        tell(describe_end(*record.verdict[1:]))


def history(record: Record, activity: Activity, now: float, cookie: int) -> Connection:
    """Adds a look to the history of a connection, or begins one; with what the program says of it.

    Args:
        cookie: What tells it from others.
    """
    if (before := record.connection) is not None:
        connection = observe(before, activity, now)
    else:
        connection = begin(
            cookie,
            activity,
            opened_at=record.opened_at,
            now=now,
            is_server=record.is_server,
            has_loop=record.loop is not None,
        )
    if record.terms is None:
        return connection
    return connection._replace(demand=record.terms.demand, is_expected=record.terms.expected is not None)


def still_due(record: Record, activity: Activity, policy: Policy, cookie: int) -> bool:
    """Tells whether a connection that was to be ended still is, by a look that is later than the verdict.

    It is if nothing has moved since, in either direction. Else the policy is asked again: bytes that have
    come or gone save one that was idle, and not one that is too old.
    """
    before = record.connection
    if before is None:
        return False
    if (activity.acked, activity.received, activity.unread) == (before.acked, before.received, before.unread):
        return True
    return is_due(history(record, activity, before.looked_at, cookie), policy, before.looked_at)


def set_reset(sock: Any) -> None:
    """Has the next close() of a connection send a RST, and drop what is not sent."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


def spare_if_it_moved(connection: Connection, record: Record, policy: Policy) -> Connection:
    """Starts the ladder again for a connection that moved after its owner was asked, and before he did it."""
    was_asked = connection.step is Step.OWNER_ASKED and not connection.is_quiet
    if was_asked and not is_due(connection, policy, connection.looked_at):
        record.verdict = None
        if record.terms is not None:
            record.terms.verdict = None
        return connection._replace(step=Step.NONE, stepped_at=0.0)
    return connection


def _without_loop(record: Record) -> None:
    """Takes note that no transport owns it: the next step will be taken from outside."""
    record.loop = None
    if record.connection is not None:
        record.connection = record.connection._replace(has_loop=False)
