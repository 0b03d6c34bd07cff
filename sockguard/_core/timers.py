"""The wheel: which keys are due? A dict from tick to keys.

Putting in, taking out and firing cost the same for ten keys and for 100,000. The price is
precision: a key fires up to one tick late, and never early.
"""

import math
from collections.abc import MutableMapping
from typing import Generic, TypeVar

__all__ = ["TICK", "Wheel"]

TICK = 0.25
"""Seconds. Fine enough for time-outs of a second and more; Netty's wheel turns every 0.1 s."""

Key = TypeVar("Key")


class Wheel(Generic[Key]):
    """Keys by the tick at which they are due; each key at most once.

    To take a key out, or to move it, leaves its entry behind in the old slot, where it is
    passed over: 8 bytes for as long as it would have taken.

    Args:
        table: Where it takes down what it knows of each key: an empty mapping, if a dict takes too much.
    """

    def __init__(self, tick: float = TICK, table: MutableMapping[Key, list[Key]] | None = None) -> None:
        self._tick = tick
        self._slots: dict[int, list[Key]] = {}
        self._slot_of: MutableMapping[Key, list[Key]] = {} if table is None else table
        """Its slot, and not its tick: a number of its own for each key would be 32 bytes."""
        self._fired = -(2**62)

    def __len__(self) -> int:
        return len(self._slot_of)

    def schedule(self, key: Key, at: float) -> None:
        """Puts a key in, or moves it, to be due at an instant."""
        tick = max(math.ceil(at / self._tick), self._fired + 1)
        slot = self._slot_of[key] = self._slots.setdefault(tick, [])
        slot.append(key)

    def cancel(self, key: Key) -> None:
        """Takes a key out, if it is in."""
        self._slot_of.pop(key, None)

    def pop_due(self, now: float) -> list[Key]:
        """Takes out all keys that are due."""
        last = math.floor(now / self._tick)
        n_passed = last - self._fired
        ticks = range(self._fired + 1, last + 1) if n_passed < len(self._slots) else sorted(self._slots)
        self._fired = max(last, self._fired)
        due: list[Key] = []
        for tick in ticks:
            if tick <= last:
                slot = self._slots.pop(tick, [])
                due += [key for key in slot if self._take(key, slot)]
        return due

    def _take(self, key: Key, slot: list[Key]) -> bool:
        if self._slot_of.get(key) is not slot:
            return False
        del self._slot_of[key]
        return True

    @property
    def next_at(self) -> float | None:
        """The instant at which the next key is due; None if there is none."""
        waiting = (at for at, slot in self._slots.items() if any(self._slot_of.get(key) is slot for key in slot))
        first = min(waiting, default=None)
        return None if first is None else first * self._tick
