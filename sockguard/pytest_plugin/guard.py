"""The fixture `socket_leak_guard`: asks about open sockets in the middle of a test."""

from collections.abc import Collection
from types import TracebackType
from typing import Self

from sockguard._core.leftovers import Leftover
from sockguard._engine.blame.births import Moment
from sockguard._engine.blame.judging import Judge
from sockguard._engine.blame.ledger import Owner
from sockguard.testing import GRACE, SocketLeakError, begin_tracking, end_tracking

__all__ = ["SocketLeakGuard"]


class SocketLeakGuard:
    """Tells which sockets are open; what it tells of is not taken from the judgement at the end of the test."""

    def __enter__(self) -> Self:
        self._tracking = begin_tracking()
        self._start = self.snapshot()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        end_tracking()

    def snapshot(self) -> frozenset[int]:
        """Gives the inodes of the sockets that are open now."""
        return frozenset(self._tracking.ledger.look())

    def ignore_current(self) -> None:
        """Has the sockets that are open now count as wanted, here and at the end of the test."""
        ledger = self._tracking.ledger
        for inode in ledger.look():
            ledger.births.by_inode[inode].moment = Moment(ledger.baseline)
        self._start = self.snapshot()

    def leaked(self, since: Collection[int] | None = None, *, grace: float = 0.0) -> list[Leftover]:
        """Lists the sockets that are open and were not open in a snapshot.

        Args:
            since: The snapshot; that of the beginning of the test if not given.
            grace: Seconds to wait for what is about to be closed.
        """
        ledger = self._tracking.ledger
        owner = Owner("the test so far")
        inodes = ledger.look().keys() - set(self._start if since is None else since)
        births = [ledger.births.by_inode[inode] for inode in inodes]
        moments = [birth.moment for birth in births]
        for birth in births:
            birth.moment = Moment(owner, birth.moment.fixture)
        owner.is_over = True
        ledger.ask_again()
        try:
            charges = Judge(ledger, self._tracking.queues, owner, is_alone=True).sit(grace)
            return [charge.leftover for charge in charges if charge.owner is owner]
        finally:
            for birth, moment in zip(births, moments, strict=True):
                birth.moment, birth.is_told = moment, False
            ledger.ask_again()

    def assert_clean(self, since: Collection[int] | None = None, *, grace: float = GRACE) -> None:
        """Fails if `leaked` lists any.

        Raises:
            SocketLeakError: There are some.
        """
        if leaks := self.leaked(since, grace=grace):
            raise SocketLeakError("the test so far", leaks)
