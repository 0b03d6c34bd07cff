"""Which connections in CLOSE_WAIT are ours, although nothing announced them?

C libraries connect on their own, descriptors are passed in or inherited, uvloop accepts in
C. The kernel lists all that are in CLOSE_WAIT, in a namespace, in one call; that list is
asked for every few ticks, more rarely while it is empty, and never for more than a small
share of the time. Only if it has connections that are not known is it asked which
descriptors of this process are hung up.

The list also shows the connections that this process has closed and a forked child still holds:
they are recognised by their cookie.
"""

import os
import time
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from sockguard._core.facts import SocketFacts, TcpState
from sockguard._core.inference import opened_by_us
from sockguard._engine.record import Record, stranger
from sockguard._engine.registry import Registry
from sockguard._kernel.inet_diag import open_diag, read_sockets
from sockguard._kernel.own_fds import NO_DESCRIPTOR, read_hung_up
from sockguard.errors import KernelUnavailable

__all__ = ["Findings", "Strangers"]

SOONEST, LATEST = 0.5, 2.0
"""Seconds between two scans: the first as long as they find something, the second while they do not."""
SHARE = 0.002
"""Of one core, at most, is spent on scans: with 100,000 sockets on the machine they become rarer."""
FOREIGN_FOR = 10.0
"""Seconds for which a connection is taken to be another process's; it may be passed on to us (SCM_RIGHTS)."""


class Findings(NamedTuple):
    """What one scan found."""

    strangers: list[Record]
    """Connections of this process that nothing announced."""
    ghosts: list[SocketFacts]
    """Connections that this process has closed, and that a child holds."""
    listeners: list[SocketFacts]
    """All listeners of the namespace, of whichever process."""
    closed: list[Record]
    """Records of what is open, and not by the number that is known: this process has closed it."""


class Strangers:
    """Scans for connections of this process that are not in the registry."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._every = SOONEST
        self._due_at = 0.0
        self._foreign: set[int] = set()
        self._foreign_until = 0.0
        self._is_refused = False

    def scan_if_due(self, now: float) -> Findings | None:
        """Scans, if it is time to; None if it is not."""
        if now < self._due_at or self._is_refused:
            return None
        began_at = time.thread_time()
        try:
            findings = self._scan(now)
        except KernelUnavailable as error:
            # A sandbox without netlink stays one; a lack of descriptors passes.
            self._is_refused = getattr(error.__cause__, "errno", None) not in NO_DESCRIPTOR
            return None
        except OSError:
            return None  # no descriptor is free for the moment
        has_found = bool(findings.strangers or findings.ghosts or findings.closed)
        self._every = SOONEST if has_found else min(2 * self._every, LATEST)
        self._due_at = now + max(self._every, (time.thread_time() - began_at) / SHARE)
        return findings

    def _scan(self, now: float) -> Findings:
        with open_diag() as diag:
            rows = read_sockets(diag, [TcpState.CLOSE_WAIT, TcpState.LISTEN], with_info=True)
        listeners = [row for row in rows if row.state == TcpState.LISTEN]
        owned = [row for row in rows if row.inode and row.state != TcpState.LISTEN]
        if not owned:
            self._foreign.clear()
            return Findings([], [], listeners, [])
        if now >= self._foreign_until:
            self._foreign.clear()
            self._foreign_until = now + FOREIGN_FOR
        known = {record.cookie: record for record in self._registry.records()}
        found = list(self._adopt([r for r in owned if r.cookie not in known and r.cookie not in self._foreign], now))
        ours = known.keys() | {record.cookie for record in found}
        others = {row.cookie: row for row in owned if row.cookie is not None and row.cookie not in ours}
        self._foreign = set(others)
        ghosts = [row for cookie, row in others.items() if self._registry.ghost(cookie)]
        return Findings(found, ghosts, listeners, list(_closed(owned, known)))

    def _adopt(self, unknown: list[SocketFacts], now: float) -> Iterator[Record]:
        mine = read_hung_up(keeps_pollers=False) if unknown else {}  # rare, and the memory would be the guard's
        self._registry.enlist(now)
        announced = self._registry.waiting()
        for row in unknown:
            if row.cookie is not None and row.inode in mine and announced.isdisjoint(mine[row.inode]):
                yield stranger(mine[row.inode][0], row.cookie, now, is_server=not opened_by_us(row))


def _closed(owned: list[SocketFacts], known: Mapping[int | None, Record]) -> Iterator[Record]:
    """Finds the records of what is still open somewhere, but not here: its object lives on, so nobody said so."""
    for row in owned:
        record = known.get(row.cookie)
        if record is not None and _inode_at(record.fd) != row.inode:
            yield record


def _inode_at(fd: int) -> int | None:
    try:
        return os.fstat(fd).st_ino
    except OSError:
        return None
