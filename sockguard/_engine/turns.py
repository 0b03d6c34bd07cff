"""Who is next? What waits for its turn, each once and first come first served, if not all can be done at once.

A guard without a thread works inside of the program's `select()`, which must not stand still
for it: a thousand connections that are accepted at once took 50 ms. So there is only so
much that one tick does then, and another tick comes soon.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

__all__ = ["MOST", "SOON", "Turns"]

MOST = 100
"""What one tick in a thread of the program's does at most of each kind: to admit, to look at, to beat. Each takes 20 to
50 us, so this is some milliseconds."""
SOON = 0.01
"""Seconds until the next tick, if there is more: the program has most of the time, and 1,000 connections are admitted
within a tenth of a second."""
T = TypeVar("T")


class Turns(Generic[T]):
    """What waits for its turn."""

    def __init__(self) -> None:
        self._queue: deque[T] = deque()
        self._waiting: set[T] = set()

    def __len__(self) -> int:
        return len(self._queue)

    def add(self, things: Iterable[T]) -> None:
        """Puts things at the end of the queue, but for those that are in it."""
        for thing in things:
            if thing not in self._waiting:
                self._waiting.add(thing)
                self._queue.append(thing)

    def take(self, most: int) -> Iterator[T]:
        """Yields those whose turn it is, and takes them out one by one: what was not yielded goes on waiting."""
        for _ in range(min(most, len(self._queue))):
            thing = self._queue.popleft()
            self._waiting.discard(thing)
            yield thing
