"""Whose heartbeat is due? Owners that have a heartbeat, by the instant at which they want to be called.

Anybody may add an owner, in any thread: that appends to a deque, which is atomic, and
waits for nobody. All else is done by the thread that ticks.
"""

import sys
import weakref
from collections import deque
from collections.abc import Callable
from typing import Protocol

from sockguard._core.timers import Wheel
from sockguard._engine.turns import Turns

__all__ = ["Hearts", "Owner"]


class Owner(Protocol):
    """A connection that has a heartbeat; it can be referred to weakly."""

    def beat(self, now: float) -> float | None:
        """Does what is due, without ever blocking; gives the instant of the next call, None if there is to be none."""


class _Ref(weakref.ref[Owner]):
    """Refers to an owner, and knows its number when it has died."""

    __slots__ = ("key",)
    key: int


class _Entry:
    """The place of an owner on the wheel; told apart by identity, whatever the owner compares by."""

    __slots__ = ("key", "ref")

    def __init__(self, owner: Owner, died: Callable[["_Ref"], object]) -> None:
        self.key = id(owner)
        self.ref = _Ref(owner, died)
        self.ref.key = self.key


class Hearts:
    """Calls owners when their heartbeat is due. They are only weakly referred to: who dies is called no more.

    Args:
        failed: Called with "heartbeat" and what an owner's `beat` raised, which is called no
            more then; must not raise.
    """

    def __init__(self, failed: Callable[[str, Exception], object]) -> None:
        self._failed = failed
        self._added: deque[tuple[weakref.ref[Owner], float]] = deque()
        self._wheel: Wheel[_Entry] = Wheel()
        self._entries: dict[int, _Entry] = {}
        self._died: deque[_Ref] = deque()
        self._due: Turns[_Entry] = Turns()

    def __len__(self) -> int:
        """Counts the owners on the wheel, those included that have died since the last tick."""
        return len(self._wheel)

    def add(self, owner: Owner, at: float) -> None:
        """Has an owner called at an instant, or one tick later; from any thread. One that is added again is moved."""
        self._added.append((weakref.ref(owner), at))

    def run(self, now: float, most: int = sys.maxsize) -> bool:
        """Calls all whose instant has come; from one thread at a time. Never raises.

        Args:
            most: How many it may call.

        Returns:
            Whether there are more.
        """
        self._bury()
        for _ in range(len(self._added)):
            ref, at = self._added.popleft()
            if (owner := ref()) is not None:
                self._wheel.schedule(self._entry_of(owner), at)
        self._due.add(self._wheel.pop_due(now))
        for entry in self._due.take(most):
            at_next = self._beat(entry, now)
            if at_next is not None:
                self._wheel.schedule(entry, at_next)
            elif self._entries.get(entry.key) is entry:
                del self._entries[entry.key]
        return len(self._due) > 0

    def after_fork_in_child(self) -> None:
        """Forgets all owners, in a forked child: two processes must not send on one connection."""
        self._added.clear()
        self._wheel = Wheel()
        self._entries.clear()
        self._due = Turns()
        self._died.clear()

    def _bury(self) -> None:
        """Takes those off the wheel that have died; they were noted in whatever thread, at whatever moment."""
        for _ in range(len(self._died)):
            ref = self._died.popleft()
            entry = self._entries.get(ref.key)
            if entry is not None and entry.ref is ref:
                self._wheel.cancel(self._entries.pop(ref.key))

    def _entry_of(self, owner: Owner) -> _Entry:
        entry = self._entries.get(id(owner))
        if entry is None or entry.ref() is not owner:
            if entry is not None:  # the number was that of an owner that has died
                self._wheel.cancel(entry)
            entry = self._entries[id(owner)] = _Entry(owner, self._died.append)
        return entry

    def _beat(self, entry: _Entry, now: float) -> float | None:
        owner = entry.ref()
        if owner is None:
            return None
        try:
            return owner.beat(now)
        except Exception as error:  # noqa: BLE001 - one must not keep the others from being called
            self._failed("heartbeat", error)
            return None
