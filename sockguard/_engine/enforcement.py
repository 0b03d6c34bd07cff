"""How is a verdict carried out? One step of the ladder, on a verified duplicate or by the owner.

The rule above all others: a number that the guard does not own is never closed. What it
has is a connection that it can shut down, which works on blocked loops, blocked threads,
greenlets and forked children alike, and an owner that it can ask.
"""

import _socket
import errno
import socket
from collections.abc import Callable
from typing import Any

from sockguard._core.connection import Activity, Connection, Step, begin, observe
from sockguard._core.decide import KEEP, Action, Verdict, decide
from sockguard._core.facts import Address
from sockguard._core.policy import Policy
from sockguard._engine.record import Names, Record
from sockguard._engine.transports import ask_to_abort
from sockguard._kernel.activity import read_activity
from sockguard._kernel.borrow import Borrower, Gone
from sockguard._kernel.disconnect import reset
from sockguard._kernel.eof import is_eof_unread

__all__ = ["Enforcer"]

_STEPS = {
    Action.SEND_FIN: Step.FIN_SENT,
    Action.ASK_OWNER: Step.OWNER_ASKED,
    Action.SHUT_DOWN: Step.SHUT_DOWN,
}
_HOW = {Action.SEND_FIN: socket.SHUT_WR, Action.SHUT_DOWN: socket.SHUT_RDWR}
_RESETTABLE = frozenset({"idle", "read_idle", "write_stalled", "first_byte", "receive_rate", "lifetime"})
"""Reasons for which `on_timeout="reset"` applies: those of a peer that is still there."""


def _read_names(sock: _socket.socket) -> Names:
    """Reads both addresses; None for what the kernel does not tell any more."""
    return Names(_name(sock.getsockname), _name(sock.getpeername))


def _name(read: Callable[[], Any]) -> Address | None:
    try:
        host, port = read()[:2]
    except OSError:
        return None
    return Address(str(host).partition("%")[0], int(port)).unmapped


class Enforcer:
    """Looks at a connection, decides, and acts, all on one verified duplicate.

    Args:
        on_step: Called after each step that was taken, with record and verdict.
    """

    def __init__(self, policy: Policy, borrower: Borrower, on_step: Callable[[Record, Verdict], object]) -> None:
        self.policy = policy
        self._borrower = borrower
        self._on_step = on_step

    def look(self, record: Record, now: float, policy: Policy | None = None) -> Connection:
        """Looks at a connection and takes the step that is due, if any.

        Args:
            policy: Another one than the usual, under pressure.

        Raises:
            Gone: Its descriptor is closed, or another connection by now.
        """
        policy = policy or self.policy
        with self._borrower.borrow(record.fd, record.cookie) as sock:
            activity = read_activity(sock)
            if policy.half_close == "close" and activity.unread == 0:
                activity = activity._replace(eof_unread=is_eof_unread(sock, activity.state))
            connection = _spare_if_it_moved(_history(record, activity, now), record)
            record.connection = connection
            verdict = decide(connection, policy, now)
            if record.names is None and (connection.is_hung_up or verdict.action is not Action.KEEP):
                record.names = _read_names(sock)
            if verdict.action is Action.KEEP:
                return connection
            self._take_step(record, connection, verdict, sock, now)
        return record.connection

    def _take_step(
        self, record: Record, connection: Connection, verdict: Verdict, sock: _socket.socket, now: float
    ) -> None:
        action = verdict.action
        if self.policy.mode == "observe":
            action = Action.SHUT_DOWN  # what it would have come to; said once
        elif action is Action.ASK_OWNER:
            if self.policy.on_timeout == "reset" and verdict.reason in _RESETTABLE:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            if not ask_to_abort(record, self._is_still_due, _without_loop):
                action = Action.SHUT_DOWN
        if self.policy.mode != "observe" and action in _HOW:
            self._shut_down(sock, verdict, action)
        if record.verdict is None and verdict.reason is not None:
            record.verdict = verdict
        if action is Action.SHUT_DOWN and self.policy.mode == "enforce":
            record.ended_at = now
        record.connection = connection._replace(step=_STEPS[action], stepped_at=now)
        self._on_step(record, (record.verdict or KEEP)._replace(action=action))

    def _shut_down(self, sock: _socket.socket, verdict: Verdict, action: Action) -> None:
        try:
            if action is Action.SHUT_DOWN and self.policy.on_timeout == "reset" and verdict.reason in _RESETTABLE:
                reset(sock)
            else:
                sock.shutdown(_HOW[action])
        except OSError as error:
            if error.errno != errno.ENOTCONN:  # it is over already
                raise

    def _is_still_due(self, record: Record) -> bool:
        """Makes sure, on the loop's thread, that it is the same connection and stands where it stood."""
        before = record.connection
        if before is None:
            return False
        try:
            with self._borrower.borrow(record.fd, record.cookie) as sock:
                after = read_activity(sock)
        except (Gone, OSError):
            return False
        if record.is_ended_by_guard:  # it was shut down meanwhile: only the descriptor is left to release
            return True
        return (after.acked, after.received - after.unread) == (before.acked, before.received - before.unread)


def _history(record: Record, activity: Activity, now: float) -> Connection:
    """Adds a look to the history of a connection, or begins one."""
    if record.connection is not None:
        return observe(record.connection, activity, now)
    assert record.cookie is not None  # noqa: S101 - it is read when a connection is admitted
    return begin(
        record.cookie,
        activity,
        opened_at=record.opened_at,
        now=now,
        is_server=record.is_server,
        has_loop=record.loop is not None,
    )


def _spare_if_it_moved(connection: Connection, record: Record) -> Connection:
    """Starts the ladder again for a connection that moved after its owner was asked, and before he did it."""
    if connection.step is Step.OWNER_ASKED and not connection.is_quiet:
        record.verdict = None
        return connection._replace(step=Step.NONE, stepped_at=0.0)
    return connection


def _without_loop(record: Record) -> None:
    """Takes note that no transport owns it: the next step will be taken from outside."""
    record.loop = None
    if record.connection is not None:
        record.connection = record.connection._replace(has_loop=False)
