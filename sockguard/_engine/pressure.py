"""Is the process about to run out of descriptors? And does it still accept what knocks?"""

import math
from collections.abc import Iterator
from typing import NamedTuple

from sockguard._core.facts import Address, SocketFacts, TcpState
from sockguard._core.listeners import Listeners
from sockguard._kernel.inet_diag import open_diag, read_sockets
from sockguard._kernel.own_fds import read_all_sockets, read_fd_count, read_fd_limit
from sockguard.errors import KernelUnavailable

__all__ = ["DescriptorWatch", "QueueWatch", "StuckQueue"]

NEAR = 0.8
"""Of the limit. At 10 % left a burst of connections is enough; mysqld and HAProxy keep similar reserves."""
CALM = 0.7
"""Below this share the warning may be told anew."""
PRESSURE_FOR = 10.0
"""Seconds for which accept() having failed for want of descriptors counts as pressure."""


class DescriptorWatch:
    """Watches how many descriptors are used.

    Args:
        sheds_always: accept() should close connections that are over, short of descriptors or not.
    """

    def __init__(self, *, sheds_always: bool = False) -> None:
        self.sheds_always = sheds_always
        self.used: int | None = 0
        """None where nobody can count: without /proc, as in a chroot."""
        self.limit: int | None = None
        self.refused_at: float | None = None
        """When accept() last failed with EMFILE or ENFILE."""
        self.sheds_dead = sheds_always
        """Whether accept() should close connections that are over before they are served."""
        self._is_near = False

    def is_pressing(self, now: float) -> bool:
        """Tells whether descriptors are short: near the limit, or accept() failed a moment ago."""
        return self._is_near or (self.refused_at is not None and now - self.refused_at < PRESSURE_FOR)

    def check(self) -> bool:
        """Counts, and tells whether the limit has newly come near."""
        self.limit, was_near = read_fd_limit(), self._is_near
        try:
            self.used = read_fd_count()
        except OSError:
            self.used = None
        if self.limit is None or self.used is None:
            self._is_near = False
            return False
        self._is_near = self.used >= self.limit * (CALM if was_near else NEAR)
        return self._is_near and not was_near


class StuckQueue(NamedTuple):
    """A listener of ours at which a connection has been waiting for long."""

    local: Address
    queued: int
    backlog: int
    queued_close_wait: int
    seconds: float


class QueueWatch:
    """Watches the accept queues of the listeners of this process, whoever accepts there.

    A queue is first in, first out. So it is stuck when one and the same connection stays
    in it, and not merely when it is never empty, which it is not on a busy server either.

    Args:
        after: Seconds for which a connection may wait; None for as long as it likes.
    """

    def __init__(self, after: float | None) -> None:
        self._after = math.inf if after is None else after
        self._waiting_since: dict[int, float] = {}
        self._told: set[int] = set()

    def check(self, now: float, listeners: list[SocketFacts]) -> Iterator[StuckQueue]:
        """Tells of each listener of ours that has newly got stuck.

        Args:
            listeners: All LISTEN rows of the namespace.
        """
        busy = [s for s in listeners if s.recv_queue]
        self._told &= {s.inode for s in busy}
        if not busy:
            self._waiting_since.clear()
            return
        if not self._waiting_since:
            self._waiting_since[0] = now  # the first time that one is not empty proves nothing
            return
        try:
            queued = _read_queued()
        except (KernelUnavailable, OSError):
            return  # no descriptor is left to ask with: at the next scan, then
        self._waiting_since = {0: now} | {
            s.cookie: self._waiting_since.get(s.cookie, now) for s in queued if s.cookie is not None
        }
        yield from self._stuck(now, busy, queued)

    def _stuck(self, now: float, busy: list[SocketFacts], queued: list[SocketFacts]) -> Iterator[StuckQueue]:
        index = Listeners(busy)
        late: dict[int, float] = {}
        for facts in queued:
            seconds = now - self._waiting_since.get(facts.cookie or 0, now)
            for listener in index.of(facts) if seconds >= self._after else ():
                late[listener.inode] = max(seconds, late.get(listener.inode, 0.0))
        self._told &= late.keys()  # worked off since: it may get stuck anew, though it was never empty
        if late.keys() <= self._told:
            return
        try:
            mine = read_all_sockets()
        except OSError:
            return  # without /proc: whose they are cannot be told
        for listener in busy:
            if listener.inode in late and listener.inode not in self._told and listener.inode in mine:
                n_gone = sum(s.state == TcpState.CLOSE_WAIT and listener in index.of(s) for s in queued)
                yield StuckQueue(listener.local, listener.recv_queue, listener.send_queue, n_gone, late[listener.inode])
        self._told |= late.keys()


def _read_queued() -> list[SocketFacts]:
    """Lists the connections that wait to be accepted: those that have no inode yet."""
    with open_diag() as diag:
        return read_sockets(diag, [TcpState.ESTABLISHED, TcpState.CLOSE_WAIT], wanted=lambda row: row.inode == 0)
