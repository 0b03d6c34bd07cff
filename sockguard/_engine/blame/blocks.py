"""Whose is it, if several blocks of code that must close what they open run at the same time?

What a block's own thread or task opens, and the tasks that it starts, is its own: they carry
its context. The rest has no context: the threads that it starts, a server's loop, code in C.
As long as no other block runs, that counts as the block's. Of blocks that run side by side
nobody knows whose it is, so none is charged with it.
"""

import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

from sockguard._core.leftovers import Leftover
from sockguard._engine.blame.births import WITHIN, Births, Moment
from sockguard._engine.blame.judging import Judge
from sockguard._engine.blame.ledger import Owner
from sockguard._engine.blame.tracking import Tracking
from sockguard._kernel.natives import system

__all__ = ["Block", "turn"]

T = TypeVar("T")


class _State:
    """What all blocks of this process share."""

    def __init__(self) -> None:
        self.pid = system.getpid()
        self.lock = threading.RLock()
        self.running: list[Block] = []
        self.others: Moment | None = None
        """What ran before any block did."""
        self.settled: Moment | None = None
        """What was last said to run."""

    def settle(self, births: Births) -> Moment:
        """Says who is charged with what no context tells of: the innermost block that has no rival.

        Returns:
            What runs apart from blocks.
        """
        if self.others is None or births.moment is not self.settled:
            self.others = births.moment  # a test or a fixture has begun meanwhile
        alone = [block for block in self.running if not any(map(block.is_rival, self.running))]
        self.settled = alone[-1].moment if alone else self.others
        births.block = alone[-1].moment if alone else None
        births.enter(self.settled)
        return self.others


_state = _State()


def turn() -> "threading.RLock":
    """Gives the lock by which blocks take turns; held for a look at the books, and up to a second at the end.

    A child that was forked while another thread had it begins anew.
    """
    if _state.pid != system.getpid():
        _state.pid, _state.lock = system.getpid(), threading.RLock()
    return _state.lock


class Block:
    """One block that runs.

    Args:
        name: Who is charged, in words.
        tracking: The books; to be kept open until the block has ended.
        has_loop: The waiting at its end is done in an event loop.
    """

    def __init__(self, name: str, tracking: Tracking, *, has_loop: bool) -> None:
        self.owner = Owner(name)
        self.moment = Moment(self.owner)
        self._tracking = tracking
        self._judge = Judge(tracking.ledger, tracking.queues, self.owner, has_loop=has_loop, is_alone=True)
        self._is_judged = False
        with turn():
            tracking.ledger.look()
            self._outer = WITHIN.get()
            self.around = self._find_around()
            self._context = [self.moment]
            WITHIN.set(self._context)
            _state.running.append(self)
            self._before = _state.settle(tracking.ledger.births)

    def _find_around(self) -> "tuple[Block, ...]":
        """Finds the blocks that this one is in, innermost last."""
        outer = next((block for block in _state.running if self._outer and block.moment is self._outer[0]), None)
        return (*outer.around, outer) if outer else ()

    def is_of_this_context(self) -> bool:
        """Tells whether this is the innermost block of the thread or task that asks."""
        return WITHIN.get() is self._context

    def is_rival(self, other: "Block") -> bool:
        """Tells whether another block runs beside this one: neither of them is in the other."""
        return other is not self and other not in self.around and self not in other.around

    def waits(self, grace: float, *, is_judged: bool) -> Iterator[float]:
        """Ends the block, and yields the seconds to wait for."""
        with turn():
            self._tracking.ledger.look()
        self._is_judged = is_judged
        steps = self._judge.waits(grace) if is_judged else iter(())
        while (seconds := self._as_the_only_one(lambda: next(steps, None))) is not None:
            yield seconds

    def leaks(self) -> list[Leftover]:
        """Lists what it left open."""
        charges = self._as_the_only_one(self._judge.conclude) if self._is_judged else []
        return [charge.leftover for charge in charges if charge.owner is self.owner]

    def _as_the_only_one(self, do: Callable[[], T]) -> T:
        """Does something while this block is over and no other one is: what those have open is not due yet."""
        with turn():
            self.owner.is_over = True
            try:
                return do()
            finally:
                self.owner.is_over = False

    def end(self) -> None:
        """Gives to who ran before, and runs again, what is left and was not told of."""
        with turn():
            self._context.clear()  # for tasks that go on: whatever they open now is of who runs then
            WITHIN.set(self._outer)
            _state.running.remove(self)
            _state.settle(self._tracking.ledger.births)
            around = [block.moment for block in self.around if block in _state.running]
            self._tracking.hand_over(self.owner, around[-1] if around else self._before)
