"""What becomes of a connection that this process has closed while a forked child holds it?

It is open as long as anybody holds it, so closing it here sent nothing. It is recognised
by its cookie in the kernel's list of CLOSE_WAIT, and ended by the same policy as one of our
own: through a duplicate that is borrowed from the child (pidfd_getfd).
"""

import os
import socket
from collections.abc import Callable

from sockguard._core.connection import Activity, Connection, begin, observe
from sockguard._core.decide import Action, Verdict, decide
from sockguard._core.facts import Holder, SocketFacts
from sockguard._core.policy import Policy
from sockguard._engine.registry import Registry
from sockguard._kernel.one_socket import read_cookie
from sockguard._kernel.pidfd import borrow_socket
from sockguard._kernel.proc_pid import Holders, find_holders, list_pids
from sockguard.errors import KernelUnavailable

__all__ = ["Ghosts"]


class Ghosts:
    """Watches what children keep of this process's connections.

    Args:
        on_leak: Called with the facts and the holders of one that has stood still for `leak_after`.
        on_end: Called with the facts, the verdict and the holders when one was ended, or would have been.
    """

    def __init__(
        self,
        registry: Registry,
        policy: Policy,
        on_leak: Callable[[SocketFacts, list[Holder]], object],
        on_end: Callable[[SocketFacts, Verdict, list[Holder]], object],
    ) -> None:
        self._registry = registry
        self._policy = policy
        self._on_leak = on_leak
        self._on_end = on_end
        self._connections: dict[int, Connection] = {}
        self._inodes: set[int] = set()
        self._holders: Holders | None = None
        self._told: set[int] = set()

    def look(self, rows: list[SocketFacts], now: float) -> None:
        """Takes in what the kernel lists of them now, and ends those that are due."""
        before, self._connections = self._connections, {}
        self._inodes, self._holders = {row.inode for row in rows}, None
        self._told &= {row.cookie for row in rows}
        for row in rows:
            if row.cookie is None:
                continue
            connection = _observe(before.get(row.cookie), row, now)
            verdict = decide(connection, self._policy, now)
            is_due = verdict.action is not Action.KEEP
            if is_due and self._end(row, verdict):
                continue
            self._report(row, connection, now)
            # One that nobody would lend is tried again, but not at each look: finding its holders is expensive.
            self._connections[row.cookie] = connection._replace(moved_at=now) if is_due else connection

    def _report(self, row: SocketFacts, connection: Connection, now: float) -> None:
        after = self._policy.leak_after
        if after is None or row.cookie in self._told or row.cookie is None or connection.stands_since is None:
            return
        if connection.stands_since + after <= now:
            self._told.add(row.cookie)
            self._on_leak(row, self._holders_of(row))

    def _end(self, row: SocketFacts, verdict: Verdict) -> bool:
        """Ends a connection and says so; False if no holder would lend it."""
        holders = self._holders_of(row)
        if self._policy.mode == "enforce" and not any(_shut_down(row, holder) for holder in holders):
            return False
        assert row.cookie is not None  # noqa: S101 - `look` takes no other
        self._registry.lay(row.cookie)
        self._on_end(row, verdict, holders)
        return True

    def _holders_of(self, row: SocketFacts) -> list[Holder]:
        """Finds who holds it, for all in this look at once: it is a walk through /proc."""
        if self._holders is None:
            self._holders = find_holders(self._inodes, [pid for pid in list_pids() if pid != os.getpid()])
        return list(self._holders.by_inode.get(row.inode, ()))


def _observe(before: Connection | None, row: SocketFacts, now: float) -> Connection:
    info = row.info
    activity = Activity(
        row.state,
        (info and info.bytes_received) or 0,
        (info and info.bytes_acked) or 0,
        row.unread,
        row.send_queue,
        info.last_data_recv if info else 0.0,
        info.last_ack_recv if info else 0.0,
    )
    if before is None:
        return begin(row.cookie or 0, activity, opened_at=now, now=now, is_server=True)
    return observe(before, activity, now)


def _shut_down(row: SocketFacts, holder: Holder) -> bool:
    try:
        with borrow_socket(holder.pid, holder.fd) as sock:
            if read_cookie(sock) != row.cookie:
                return False
            sock.shutdown(socket.SHUT_RDWR)
    except (OSError, KernelUnavailable):
        return False  # gone, or not ours to touch; another holder may lend it
    return True
