"""How often is an event told? Once per period for each kind and origin, and the rest by their number."""

import math
from collections.abc import Hashable

from sockguard._core.events import Event, EventName, kind_of

__all__ = ["MAX_SITES", "PERIOD", "RateLimit"]

PERIOD = 60.0
"""Seconds between two tellings of one kind and origin.

A site that runs wild then writes 1,440 lines a day, and whoever has repaired it sees within a
minute that it is quiet. The kernel's printk allows ten messages in 5 s, journald 10,000 in 30 s:
those protect the disk; this is for whoever reads the log. It is also the default `fin_timeout`,
so that each round of what is closed for it is one line.
"""

MAX_SITES = 4096
"""Origins that are remembered, some 200 bytes each; as many as distinct call stacks are."""

_Key = tuple[EventName, Hashable]


class RateLimit:
    """Lets one event of a kind and origin through per period, and counts those that it withholds.

    Nothing is lost: what was let through, what that stands for (`suppressed`) and what is
    still withheld add up to what was offered. The last of those withheld is told when the
    period is over (`overdue`), or the next one in its place.
    """

    def __init__(self, period: float = PERIOD, max_sites: int = MAX_SITES) -> None:
        self._period = period
        self._max_sites = max_sites
        self._told_at: dict[_Key, float] = {}
        """In the order of the instants, the oldest first."""
        self._withheld: dict[_Key, tuple[Event, int]] = {}
        """The last event that was withheld, and how many were."""

    def __len__(self) -> int:
        """Counts the origins that are remembered."""
        return len(self._told_at)

    @property
    def n_withheld(self) -> int:
        """Events that no event which was let through stands for yet."""
        return sum(n for _, n in self._withheld.values())

    def offer(self, event: Event, now: float) -> list[Event]:
        """Takes an event in and returns what is to be told now.

        That is at most this event, and what is left of an origin that is forgotten to make room.
        """
        key = (event.name, event.site)
        told_at = self._told_at.get(key)
        if told_at is None:
            return [*self._make_room(), self._let_through(key, event, 0, now)]
        event = event._replace(level=kind_of(event.name).level_after or event.level)
        _, n = self._withheld.get(key, (event, 0))
        if now - told_at < self._period:
            self._withheld[key] = (event, n + 1)
            return []
        return [self._let_through(key, event, n, now)]

    def is_withheld(self, name: EventName, site: Hashable, now: float) -> bool:
        """Tells whether an event of this origin is withheld now, so that one more need only be counted."""
        key = (name, site)
        return key in self._withheld and now - self._told_at.get(key, -math.inf) < self._period

    def count(self, name: EventName, site: Hashable) -> bool:
        """Counts one more event of an origin; False if none is withheld that could stand for it."""
        key = (name, site)
        if key not in self._withheld:
            return False
        event, n = self._withheld[key]
        self._withheld[key] = (event, n + 1)
        return True

    def next_at(self) -> float | None:
        """Tells when `overdue` will have something to tell, if nothing else happens."""
        return min((self._told_at[key] + self._period for key in self._withheld), default=None)

    def overdue(self, now: float) -> list[Event]:
        """Returns what was withheld for a whole period and is to be told now."""
        due = [key for key in self._withheld if now - self._told_at[key] >= self._period]
        return [self._release(key, now) for key in due]

    def rest(self) -> list[Event]:
        """Returns all that is still withheld, to be told before the end."""
        return [self._release(key, self._told_at[key]) for key in tuple(self._withheld)]

    def _make_room(self) -> list[Event]:
        if len(self._told_at) < self._max_sites:
            return []
        oldest, told_at = next(iter(self._told_at.items()))
        rest = [self._release(oldest, told_at)] if oldest in self._withheld else []
        del self._told_at[oldest]
        return rest

    def _release(self, key: _Key, now: float) -> Event:
        event, n = self._withheld[key]
        return self._let_through(key, event, n - 1, now)

    def _let_through(self, key: _Key, event: Event, n_more: int, now: float) -> Event:
        self._withheld.pop(key, None)
        self._told_at.pop(key, None)  # so that it goes to the end
        self._told_at[key] = now
        return event._replace(fields={**event.fields, "suppressed": n_more}) if n_more else event
