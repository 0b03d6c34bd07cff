"""How does the guard look and act? On a verified duplicate: fetch facts, decide, take one step of the ladder.

The rule above all others: a number that the guard does not own is never closed. What it
has is a connection that it can shut down, which works on blocked loops, blocked threads,
greenlets and forked children alike, and an owner that it can ask.
"""

from collections.abc import Callable
from typing import Any

from sockguard._core.connection import Activity, Connection
from sockguard._core.decide import Action, Verdict, decide
from sockguard._core.policy import Policy
from sockguard._engine.ladder import Ladder, history, let_go, or_let_go, set_reset, spare_if_it_moved, still_due
from sockguard._engine.record import Record
from sockguard._kernel.activity import read_activity
from sockguard._kernel.borrow import Borrower, Gone
from sockguard._kernel.disconnect import reset
from sockguard._kernel.eof import is_eof_unread
from sockguard._kernel.names import read_names

__all__ = ["Enforcer"]


class Enforcer:
    """Looks at a connection, decides, and acts, all on one verified duplicate.

    Args:
        on_step: Called after each step that was taken, with record and verdict.
    """

    def __init__(self, policy: Policy, borrower: Borrower, on_step: Callable[[Record, Verdict], object]) -> None:
        self.policy = policy
        self._borrower = borrower
        self._ladder = Ladder(self._is_still_due, on_step, reset)

    def look(self, record: Record, now: float, policy: Policy | None = None) -> Connection:
        """Looks at a connection and takes the step that is due, if any.

        Args:
            policy: Another one than the usual, under pressure.

        Raises:
            Gone: Its descriptor is closed, or another connection by now.
        """
        policy = policy or record.policy_or(self.policy)
        with self._borrower.borrow(record.fd, record.cookie) as sock:
            activity = _read(sock, policy)
            assert record.cookie is not None  # noqa: S101 - it is read when a connection is admitted
            connection = spare_if_it_moved(history(record, activity, now, record.cookie), record, policy)
            record.connection = connection
            verdict = or_let_go(decide(connection, policy, now), record)
            if record.names is None and (connection.is_hung_up or verdict.action is not Action.KEEP):
                record.names = read_names(sock)
            if verdict.action is not Action.KEEP:
                self._ladder.take(record, verdict, sock, policy)
                connection = record.connection or connection
        if record.terms is not None and record.is_ended_by_guard:
            let_go(record)
        return connection

    def _is_still_due(self, record: Record, policy: Policy, is_reset: bool) -> bool:
        """Makes sure, on the loop's thread, that it is the same connection and to be ended still."""
        try:
            with self._borrower.borrow(record.fd, record.cookie) as sock:
                # What was shut down meanwhile has but its descriptor left to release.
                is_due = record.is_ended_by_guard or still_due(record, _read(sock, policy), policy, record.cookie or 0)
                if is_due and is_reset:
                    set_reset(sock)
        except (Gone, OSError):
            return False
        return is_due


def _read(sock: Any, policy: Policy) -> Activity:
    """Reads what there is to know; of the peer's FIN only if the policy asks for it."""
    activity = read_activity(sock)
    if policy.half_close == "close" and activity.unread == 0:
        return activity._replace(eof_unread=is_eof_unread(sock, activity.state))
    return activity
