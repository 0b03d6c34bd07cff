"""What was taken away from a program that may not know it yet: registrations of connections that are closed by now.

The program may still call `unregister()` for such a one, in a clean-up that comes late, and
must not get a KeyError for that. The object is only weakly referred to, so what the program
has dropped is forgotten by itself; for whatever else may keep it alive, there is a limit.
"""

import weakref
from collections.abc import Callable
from selectors import SelectorKey
from typing import Any, NamedTuple

from sockguard._kernel.one_socket import fd_of

__all__ = ["TakenAway", "number_of"]

MAX_TAKEN = 4096
"""Registrations that are remembered; their data may refer to the very object, and keep it alive."""


class _Entry(NamedTuple):
    ref: Callable[[], Any]
    fd: int
    events: int
    data: Any


class TakenAway:
    """Registrations that are gone while the program still may refer to them."""

    def __init__(self) -> None:
        self._entries: dict[int, _Entry] = {}
        self.closing: SelectorKey | None = None
        """What is being closed now: its own close() may unregister it, by whatever name."""

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, key: SelectorKey) -> None:
        """Remembers a registration; the oldest is forgotten if there are too many."""
        number, fileobj = _identity_of(key.fileobj), key.fileobj
        try:
            ref: Callable[[], Any] = weakref.ref(fileobj, lambda _: self._entries.pop(number, None))
        except TypeError:  # an int, or a class with __slots__
            ref = lambda: fileobj  # noqa: E731 - as weakref.ref, it is called to get the object
        self._entries[number] = _Entry(ref, *key[1:])
        while len(self._entries) > MAX_TAKEN:
            del self._entries[next(iter(self._entries))]

    def of(self, fileobj: Any) -> SelectorKey | None:
        """Gives the registration that an object had; None if it is not remembered."""
        entry = self._entries.get(_identity_of(fileobj))
        if entry is None or _identity_of(entry.ref()) != _identity_of(fileobj):
            return None
        return SelectorKey(fileobj, *entry[1:])

    def pop(self, fileobj: Any) -> SelectorKey | None:
        """The same, and forgets it."""
        key = self.of(fileobj)
        if key is not None:
            del self._entries[_identity_of(fileobj)]
        elif self.closing is not None and number_of(fileobj) in (self.closing.fd, -1):
            return self.closing
        return key


def number_of(fileobj: Any) -> int:
    """Tells the descriptor of whatever can be registered; -1 if it has none, any more or ever."""
    try:
        return fileobj if isinstance(fileobj, int) else fd_of(fileobj)
    except Exception:  # noqa: BLE001 - closed, or no file object at all: the inner selector will say so
        return -1


def _identity_of(fileobj: Any) -> int:
    """Numbers whatever can be registered: an int by itself, below zero, and an object by its identity."""
    return -1 - fileobj if isinstance(fileobj, int) else id(fileobj)
