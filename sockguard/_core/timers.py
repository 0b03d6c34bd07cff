"""The wheel: which keys are due? A dict from tick to keys.

Putting in, taking out and firing cost the same for ten keys and for 100,000. The price is
precision: a key fires up to one tick late, and never early.
"""

import math
from typing import Generic, TypeVar

__all__ = ["TICK", "Wheel"]

TICK = 0.25
"""Seconds. Fine enough for time-outs of a second and more; Netty's wheel turns every 0.1 s."""

Key = TypeVar("Key")


class Wheel(Generic[Key]):
    """Keys by the tick at which they are due; each key at most once.

    To take a key out, or to move it, leaves its entry behind in the old slot, where it is
    passed over: 8 bytes for as long as it would have taken.
    """

    def __init__(self, tick: float = TICK) -> None:
        self._tick = tick
        self._slots: dict[int, list[Key]] = {}
        self._ticks: dict[Key, int] = {}
        self._fired = -(2**62)

    def __len__(self) -> int:
        return len(self._ticks)

    def schedule(self, key: Key, at: float) -> None:
        """Puts a key in, or moves it, to be due at an instant."""
        tick = max(math.ceil(at / self._tick), self._fired + 1)
        self._ticks[key] = tick
        self._slots.setdefault(tick, []).append(key)

    def cancel(self, key: Key) -> None:
        """Takes a key out, if it is in."""
        self._ticks.pop(key, None)

    def pop_due(self, now: float) -> list[Key]:
        """Takes out all keys that are due."""
        last = math.floor(now / self._tick)
        n_passed = last - self._fired
        ticks = range(self._fired + 1, last + 1) if n_passed < len(self._slots) else sorted(self._slots)
        self._fired = max(last, self._fired)
        due: list[Key] = []
        for tick in ticks:
            if tick <= last:
                due += [key for key in self._slots.pop(tick, ()) if self._take(key, tick)]
        return due

    def _take(self, key: Key, tick: int) -> bool:
        if self._ticks.get(key) != tick:
            return False
        del self._ticks[key]
        return True

    @property
    def next_at(self) -> float | None:
        """The instant at which the next key is due; None if there is none."""
        return min(self._ticks.values()) * self._tick if self._ticks else None
