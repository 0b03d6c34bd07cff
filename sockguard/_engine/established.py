"""Which established connections of this process has nobody announced? Asked for where something is done to them.

uvloop announces a TLS connection when its handshake is done, so one that never shakes hands
is not announced at all; nor is a duplicate whose original was closed, what was passed in by
a message, or what was opened before the guard was installed. The kernel's list has them. To
read it costs a microsecond or two a connection, so it is read rarely where there are many,
and where all that such a connection gets is keepalive.
"""

import math
from functools import cache

from sockguard._core.decide import first_look_after
from sockguard._core.facts import TcpState
from sockguard._core.inference import opened_by_us
from sockguard._core.policy import Policy
from sockguard._engine.record import Record, stranger
from sockguard._engine.registry import Registry
from sockguard._kernel.inet_diag import open_diag, read_sockets
from sockguard._kernel.own_fds import read_all_sockets
from sockguard._kernel.proc_net import read_socket_count
from sockguard.errors import KernelUnavailable

__all__ = ["EstablishedScan"]

EVERY = 2.0
"""Seconds between two scans, at least."""
FOR_KEEPALIVE = 60.0
"""Seconds between two scans that are for keepalive alone, or a quarter of its idle time if that is less."""
SHARE = 0.001
"""Of one core, at most, is spent on them."""
PER_SOCKET = 4e-6
"""Seconds of CPU that a scan takes for each TCP socket of the namespace, whosever it is. With 10,000
connections on loopback, both ends there, a scan comes every 80 s."""


class EstablishedScan:
    """Finds connections of this process that are neither announced nor hung up.

    Args:
        policy: What is done to them; a scan for nothing is not made.
    """

    def __init__(self, registry: Registry, policy: Policy) -> None:
        self._registry = registry
        self._every = _interval(policy)
        self._due_at = 0.0
        self._scanned_at: float | None = None

    def scan_if_due(self, now: float) -> list[Record]:
        """Lists those that nobody has announced, if it is time to."""
        if now < self._due_at or self._every == math.inf:
            return []
        self._due_at = now + self._every
        if self._scanned_at is None:
            self._scanned_at = now - EVERY
        try:
            if now - self._scanned_at < read_socket_count() * PER_SOCKET / SHARE:
                return []
            self._scanned_at = now
            return self._find(now)
        except (KernelUnavailable, OSError):
            return []  # the scan for CLOSE_WAIT finds out why

    def _find(self, now: float) -> list[Record]:
        """Asks for all, and keeps those alone that are not known: of 10,000 rows, each is 1 KiB."""
        known = {record.cookie for record in self._registry.records()}
        mine = cache(read_all_sockets)  # not asked for if all are known
        with open_diag() as diag:
            rows = read_sockets(
                diag,
                [TcpState.ESTABLISHED],
                with_info=True,
                wanted=lambda row: row.inode and row.cookie not in known and row.inode in mine(),
            )
        self._registry.enlist(now)  # what was opened since the tick began is announced
        announced = {record.fd for record in self._registry.records() if record.cookie is None}
        return [
            stranger(mine()[row.inode][0], row.cookie, now, is_server=not opened_by_us(row))
            for row in rows
            if announced.isdisjoint(mine()[row.inode])
        ]


def _interval(policy: Policy) -> float:
    """Tells how often they are to be asked for, in seconds; infinite if nothing would be done to them."""
    if first_look_after(policy) is not None:
        return EVERY
    if policy.keepalive is None or policy.mode != "enforce":
        return math.inf
    return max(EVERY, min(policy.keepalive.idle / 4, FOR_KEEPALIVE))
