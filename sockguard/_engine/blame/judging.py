"""Judges who is over: waits a little for what is about to be closed, then charges what is still open."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from sockguard._engine.blame.belonging import give_to_owners, left_by_clients
from sockguard._engine.blame.ledger import Ledger, Owner, Suspect
from sockguard._engine.blame.queues import Queues
from sockguard._engine.blame.verdicts import Charge, charge_deaths, charge_queued, charge_suspects
from sockguard._kernel.natives import monotonic, sleep
from sockguard._kernel.own_sockets import is_alone

if TYPE_CHECKING:
    from sockguard._core.leaks import Leak

__all__ = ["Judge"]

FIRST_WAIT, LONGEST_WAIT = 0.001, 0.05
"""Seconds between two looks: they double from the one to the other."""


class Judge:
    """Finds what is left open: by `sit`, or by `waits` and `conclude` where the waiting is an event loop's business.

    Args:
        ledger: The books.
        queues: The accept queues.
        owner: Who is charged with what waits there.
        is_early: The owner is not over yet, and only servers that outlive it are looked at: before they are torn down.
        has_loop: The waiting is done in an event loop, which goes on working meanwhile.
        is_alone: Nobody else's leaks are looked at, so that none is taken for told.
    """

    def __init__(  # noqa: PLR0913 - each is a fact of its own
        self,
        ledger: Ledger,
        queues: Queues,
        owner: Owner,
        *,
        is_early: bool = False,
        has_loop: bool = False,
        is_alone: bool = False,
    ) -> None:
        self._only = owner if is_alone else None
        self._ledger = ledger
        self._queues = queues
        self._owner = owner
        self._is_early = is_early
        self._has_loop = has_loop
        self._suspects: list[Suspect] = []
        self._queued: list[Leak] = []

    def sit(self, grace: float) -> list[Charge]:
        """Waits, in this thread, for what is about to be closed, and tells what is left open.

        Args:
            grace: Seconds, at most.
        """
        for seconds in self.waits(grace):
            sleep(seconds)
        return self.conclude()

    def waits(self, grace: float) -> Iterator[float]:
        """Looks, and yields how many seconds to wait before the next look, until all is closed or time is up.

        The first look is that which the ledger took last: who ends an owner looks in its name.

        Args:
            grace: Seconds, all in all.
        """
        give_up_at = monotonic() + grace
        pause = FIRST_WAIT
        is_fresh, is_hopeless = True, self._cannot_change()
        while self._look(is_fresh=is_fresh):
            remaining = give_up_at - monotonic()
            if remaining <= 0 or is_hopeless:
                break
            is_fresh, is_hopeless = False, self._cannot_change()
            yield min(pause, remaining)
            pause = min(pause * 2, LONGEST_WAIT)

    def _cannot_change(self) -> bool:
        """Tells whether nobody is there who could close a socket while we wait; asked before each look."""
        return not self._has_loop and is_alone()

    def _look(self, *, is_fresh: bool) -> bool:
        self._queued = self._queues.find()  # first: what is accepted meanwhile is seen below
        due = self._ledger.abandoned_early(self._owner) if self._is_early else self._ledger.due(is_fresh=is_fresh)
        # One that a server accepted is due by itself, and once more as its client has gone.
        due = list({s.birth.inode: s for s in due if self._only in (None, s.owner)}.values())
        known = {suspect.birth.inode for suspect in self._suspects}
        others = self._sort_out([s for s in due if s.birth.inode not in known])
        self._suspects = [suspect for suspect in due if suspect.birth.inode in known] + others
        return bool(self._suspects or self._queued)

    def _sort_out(self, suspects: list[Suspect]) -> list[Suspect]:
        """Leaves out what belongs to others."""
        return left_by_clients(suspects, self._ledger) if self._is_early else give_to_owners(suspects, self._ledger)

    def conclude(self) -> list[Charge]:
        """Tells what is left open; each socket once."""
        self._suspects = self._sort_out(self._suspects)
        charges = charge_suspects(self._ledger.tell(self._suspects))
        charges += charge_queued(self._queued, self._owner)
        self._queues.told(self._queued)
        if not self._is_early:
            charges += charge_deaths(self._ledger.take_deaths(self._only))
            self._ledger.close()
        return charges
