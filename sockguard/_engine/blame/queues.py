"""Who waits in an accept queue of ours although he has gone? No descriptor shows it; only the listener's owner can."""

import select

from sockguard._core.leaks import Cause, Leak
from sockguard._engine.blame.ledger import Ledger
from sockguard._engine.blame.verdicts import find_sick
from sockguard._kernel.natives import new_poll
from sockguard._kernel.own_sockets import sketch_descriptor

__all__ = ["Queues"]


class Queues:
    """The accept queues of listeners that outlive a test."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._is_listener: dict[int, bool] = {}
        self._told: set[tuple[object, ...]] = set()

    def find(self) -> list[Leak]:
        """Finds connections that were never accepted, whose client has gone, and that were not told of.

        Those at a listener of a running test are left out: it may still be closed, with all that waits there.
        """
        owners = {owner for owner in self._ledger.owners if not (owner.is_excused or owner.is_over)}
        if not owners:
            return []
        births, inodes = self._ledger.births.by_inode, self._ledger.inodes
        theirs = {inode: fds[0] for inode, fds in inodes.items() if births[inode].moment.owner in owners}
        listeners = {inode: fd for inode, fd in theirs.items() if self._listens(inode, fd)}
        if not listeners or not _is_any_ready(listeners):
            return []
        return [leak for leak in find_sick() if leak.cause is Cause.NOT_ACCEPTED and self._is_new(leak, listeners)]

    def told(self, leaks: list[Leak]) -> None:
        """Takes note that these were told of."""
        self._told |= {_identity(leak) for leak in leaks}

    def _listens(self, inode: int, fd: int) -> bool:
        if inode not in self._is_listener:
            sketch = sketch_descriptor(fd, inode)
            self._is_listener[inode] = bool(sketch and sketch.protocol == "TCP" and sketch.state == "LISTEN")
        return self._is_listener[inode]

    def _is_new(self, leak: Leak, listeners: dict[int, int]) -> bool:
        return _identity(leak) not in self._told and any(found.inode in listeners for found in leak.listeners)


def _identity(leak: Leak) -> tuple[object, ...]:
    return (leak.cookie, *leak.connection.identity)


def _is_any_ready(listeners: dict[int, int]) -> bool:
    poller = new_poll()
    for fd in listeners.values():
        poller.register(fd, select.POLLIN)
    return bool(poller.poll(0))
