"""What happens at each tick to connections whose books the wrapper keeps, as the kernel keeps none?

The same as to all others, by the same decisions and the same ladder; but nobody tells of a
hang-up here, so each is looked at about once a second. And there is no cookie, so the object that
owns a connection is its identity, and a descriptor's number is only told, never acted on:
what the guard shuts down is whatever the object has at that moment, and to close it is for
the object.

Danger. A forked child has a copy of the books. Whoever of the two does not serve the
connection sees it stand still, and to shut it down would end it for the other one, too. So
after a fork a connection is left alone, in both processes, until its books move there, or
it is announced anew. Price: one that never moves again in either of them stays open.
"""

import _socket
import contextlib
import socket
import sys
from typing import Any

from sockguard._core.connection import Activity, Connection
from sockguard._core.decide import Action, decide, next_at
from sockguard._core.policy import Policy
from sockguard._engine.announcer import Announcer
from sockguard._engine.ladder import Ladder, history, let_go, or_let_go, set_reset, spare_if_it_moved, still_due
from sockguard._engine.probes import keep_alive
from sockguard._engine.record import Record
from sockguard._engine.stamped_records import StampedRecord, StampedRecords
from sockguard._engine.turns import Turns
from sockguard._kernel.names import read_names
from sockguard._kernel.one_socket import fd_of
from sockguard._kernel.portable import is_connected, read_queue, read_stamps

__all__ = ["LOOK_EVERY", "StampedSweep"]

LOOK_EVERY = 1.0
"""Seconds between two looks at a connection, and up to one tick more."""
MAX_LOOKS = 1000
"""Looks in a second, beside those that are due: 2 percent of one processor at some 20 us each. Of more connections
each is looked at the more rarely."""
_Raw = _socket.socket


class StampedSweep:
    """Looks at the connections that have books of their own, and ends by policy those that are over.

    Args:
        policy: For all connections that have none of their own.
    """

    def __init__(self, policy: Policy, announcer: Announcer) -> None:
        self._policy = policy
        self._announcer = announcer
        self._ladder = Ladder(_is_still_due, announcer.step, _end_orderly)
        self._now = self._look_at = 0.0
        self.to_look: Turns[int] = Turns()
        """By key; each is looked at once, however often it falls due meanwhile."""
        self.records = StampedRecords()
        self.opened = self.records.opened
        """What was opened since the last tick; appended to from any thread."""

    def take_over(self, other: "StampedSweep") -> None:
        """Goes on with the connections of another one, which is not used any more."""
        self.records, self.opened, self.to_look = other.records, other.opened, other.to_look

    def run(self, now: float, most: int = sys.maxsize) -> bool:
        """Does all that is due at this tick; one connection that fails does not keep the others from it.

        Args:
            most: How many connections it may look at.

        Returns:
            Whether there is more to do.

        Raises:
            Exception: What went wrong with the last one that failed.
        """
        self._now = now
        self._look_at = now + max(LOOK_EVERY, len(self.records) / MAX_LOOKS)
        self._announcer.begin(now)
        self.records.enlist(now)
        for record in self.records.take_died():
            self._drop(record)
        failure: Exception | None = None
        self.to_look.add(record.key for record in self.records.due(now))
        for key in self.to_look.take(most):
            try:
                if (found := self.records.by_key.get(key)) is not None:
                    self._look(found)
            except Exception as error:  # noqa: BLE001 - it is raised below
                failure = error
        if failure is not None:
            raise failure
        return len(self.to_look) > 0

    def _drop(self, record: StampedRecord) -> None:
        """Takes note that a connection is closed, by whomever."""
        self.records.drop(record)
        self._announcer.cleared(record, "ended_by_guard" if record.verdict else "closed")

    def _look(self, record: StampedRecord) -> None:
        self.records.wheel.schedule(record.key, self._look_at)
        queue_before = record.queue
        if (sock := _socket_of(record)) is None:
            self._drop(record)
            return
        try:
            record.fd = fd_of(sock)
            activity = _read(record, sock, self._now) if self._is_to_be_judged(record, sock) else None
        except (OSError, ValueError):
            self._drop(record)
            return
        if fd_of(sock) != record.fd:  # it was closed while it was looked at
            self._drop(record)
        elif activity is not None:
            self._judge(record, sock, activity, drains=_has_drained(queue_before, record.queue))

    def _is_to_be_judged(self, record: StampedRecord, sock: Any) -> bool:
        """Tells whether it is our connection, and one at all.

        Raises:
            OSError: It is closed.
        """
        if record.asleep_at is not None:
            if record.books.last_update <= record.asleep_at:
                return record.fd < 0
            record.asleep_at = record.connection = None
        if record.connection is None and record.fd >= 0:
            if not record.is_server and not record.books.received_bytes and not is_connected(sock):
                return False
            keep_alive(sock, record.policy_or(self._policy))
        return True

    def _judge(self, record: StampedRecord, sock: Any, activity: Activity, *, drains: bool) -> None:
        policy, was_hung_up = record.policy_or(self._policy), record.is_hung_up
        connection = history(record, activity, self._now, record.serial)
        if drains:  # the peer reads: that moves bytes, though no call of ours returns
            connection = connection._replace(moved_at=self._now, is_quiet=False)
        record.connection = connection = spare_if_it_moved(connection, record, policy)
        verdict = or_let_go(decide(connection, policy, self._now), record)
        if record.names is None and (connection.is_hung_up or verdict.action is not Action.KEEP):
            record.names = read_names(sock)
        if verdict.action is not Action.KEEP:
            self._ladder.take(record, verdict, _Handle(sock), policy)
        if record.is_ended_by_guard:
            let_go(record)
        elif connection.is_hung_up:
            self._report(record, connection, policy, is_new=not was_hung_up)
        due_at = next_at(record.connection, policy, self._now)
        self.records.wheel.schedule(record.key, min(self._look_at, due_at or self._look_at))

    def _report(self, record: StampedRecord, connection: Connection, policy: Policy, *, is_new: bool) -> None:
        if is_new:
            self._announcer.peer_closed(record)
        if not connection.is_quiet:
            self._announcer.cleared(record, "moved")
        since, is_known = connection.stands_since, connection.is_expected or record.reported is not None
        if since is None or policy.leak_after is None or is_known:
            return
        if since + policy.leak_after <= self._now:
            self._announcer.leak(record)


class _Handle:
    """A socket by its owner: shut down without what the owner's class may do besides."""

    __slots__ = ("setsockopt", "shutdown")

    def __init__(self, sock: Any) -> None:
        self.setsockopt = sock.setsockopt
        self.shutdown = _Raw.shutdown.__get__(sock) if isinstance(sock, _Raw) else sock.shutdown


def _end_orderly(handle: _Handle) -> None:
    """Ends a connection by a FIN where a reset is wanted, which only its owner could do everywhere."""
    handle.shutdown(socket.SHUT_RDWR)


def _is_still_due(record: Record, policy: Policy, is_reset: bool) -> bool:
    """Makes sure, on the loop's thread, that a connection is to be ended still."""
    before, sock = record.connection, _socket_of(record)
    if before is None or sock is None or not isinstance(record, StampedRecord):
        return False
    queue_before = record.queue
    try:
        after = _read(record, sock, before.looked_at)
    except (OSError, ValueError):
        return False
    if _has_drained(queue_before, record.queue):
        return False
    # What was shut down meanwhile has but its descriptor left to release.
    is_due = record.is_ended_by_guard or still_due(record, after, policy, record.serial)
    if is_due and is_reset:
        with contextlib.suppress(OSError):
            set_reset(sock)
    return is_due


def _socket_of(record: Record) -> Any:
    """Finds the socket of a connection; None if its owner has none any more."""
    get = getattr(record(), "get_extra_info", None)
    if get is not None:
        return get("socket")
    return record.raw() if isinstance(record, StampedRecord) else record()


def _read(record: StampedRecord, sock: Any, now: float) -> Activity:
    """Reads the stamps; what a transport holds back is not sent yet, and a queue that moves is none that stalls."""
    activity = read_stamps(sock, record.books, now, buffered=_buffered(record()))
    before, record.queue = record.queue, read_queue(sock)
    return activity._replace(unsent=0) if _has_drained(before, record.queue) else activity


def _has_drained(before: int | None, after: int | None) -> bool:
    """Tells whether the peer of a Unix socket has read between two looks at its queue."""
    return before is not None and after is not None and after < before


def _buffered(owner: Any) -> int:
    """Tells how many bytes a transport holds back; 0 for what is none, and where it cannot tell."""
    get = getattr(owner, "get_write_buffer_size", None)
    try:
        return 0 if get is None else int(get())
    except Exception:  # noqa: BLE001 - code of whatever library, asked from a thread that is not the loop's
        return 0
