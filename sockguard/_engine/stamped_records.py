"""Which connections have books of their own? Each known by the object that owns it, as there is no cookie.

As in the registry, threads of the application only append to a deque, and the one thread
that ticks does the rest.
"""

import itertools
from collections import deque
from collections.abc import Callable
from typing import Any

from sockguard._core.books import Books
from sockguard._core.timers import Wheel
from sockguard._engine.record import LoopRef, Record
from sockguard._engine.sites import Site
from sockguard._engine.terms import Terms

__all__ = ["StampedEntry", "StampedRecord", "StampedRecords"]

StampedEntry = tuple[Any, ...]
"""An `Entry` of the registry without the cookie; and, if the owner is neither a socket nor a transport, a weak
reference to its socket."""

_serial = itertools.count(1)


class StampedRecord(Record):
    """The record of a connection with books of its own."""

    __slots__ = ("asleep_at", "books", "key", "queue", "raw", "serial")

    asleep_at: float | None
    """When the process forked: until the books move, the connection may be another process's."""
    books: Books
    key: int
    """The identity of its owner, while that lives."""
    queue: int | None
    """Memory of a Unix socket that its peer had not freed by the last look."""
    raw: Callable[[], Any]
    """Gives the socket, where the owner is none itself; as the owner, it is not kept alive."""
    serial: int
    """Takes the place of the cookie in decisions, and is told nobody."""

    def __init__(  # noqa: PLR0913, PLR0917 - as that of Record
        self,
        owner: Any,
        callback: Callable[[Any], object] | None,
        fd: int,
        is_server: bool,
        loop: LoopRef | None,
        site: Site | None,
        terms: Terms,
        books: Books,
        raw: Callable[[], Any] | None,
    ) -> None:
        super().__init__(owner, callback, fd, None, books.opened_at, is_server, loop, site, terms)
        self.books = books
        self.raw = raw or self
        self.key = id(owner)
        self.serial = next(_serial)
        self.asleep_at = self.queue = None


class StampedRecords:
    """The records, and when each is to be looked at."""

    def __init__(self) -> None:
        self.opened: deque[StampedEntry] = deque()
        """What was opened since the last tick; appended to from any thread."""
        self.by_key: dict[int, StampedRecord] = {}
        self.wheel: Wheel[int] = Wheel()
        self._died: deque[StampedRecord] = deque()

    def __len__(self) -> int:
        return len(self.by_key)

    def all(self) -> list[StampedRecord]:
        """Lists all records; from any thread."""
        return list(self.by_key.values())

    def enlist(self, now: float) -> None:
        """Makes records of what was opened, to be looked at now."""
        for _ in range(len(self.opened)):
            ref, fd, is_server, loop, site, terms, *raw = self.opened.popleft()
            owner = ref()
            if owner is None or terms is None or terms.books is None:
                continue
            old = self.by_key.get(id(owner))
            if old is not None and old() is owner and old.terms is terms:
                _wake(old)
                continue
            made = (self._died.append, fd, is_server, loop, site, terms, terms.books, *(raw or [None]))
            record = self.by_key[id(owner)] = StampedRecord(owner, *made)
            self.wheel.schedule(record.key, now)

    def take_died(self) -> list[StampedRecord]:
        """Takes out the records whose owner has died; with the owner its descriptor was closed, or handed on."""
        return [self._died.popleft() for _ in range(len(self._died))]

    def due(self, now: float) -> list[StampedRecord]:
        """Takes out those whose time has come, and those whose program demands an end that is due."""
        due = {*self.wheel.pop_due(now)}
        due.update(key for key, record in self.by_key.items() if _is_demanded(record, now))
        return [self.by_key[key] for key in due if key in self.by_key]

    def drop(self, record: StampedRecord) -> None:
        """Forgets a connection."""
        if self.by_key.get(record.key) is record:
            del self.by_key[record.key]
            self.wheel.cancel(record.key)

    def after_fork(self, now: float) -> None:
        """Takes note, in parent and child, that the other one may serve what is open now."""
        self.enlist(now)
        for record in self.by_key.values():
            record.asleep_at = now

    def after_fork_in_child(self, now: float) -> None:
        """Does the same in the child, where the loops of its parent do not run."""
        self.after_fork(now)
        for record in self.by_key.values():
            record.loop = None
            if record.connection is not None:
                record.connection = record.connection._replace(has_loop=False)


def _wake(record: StampedRecord) -> None:
    """Takes note that a connection was announced anew: after a fork it is ours, whatever its history was."""
    if record.asleep_at is not None:
        record.asleep_at = record.connection = None


def _is_demanded(record: StampedRecord, now: float) -> bool:
    demand = record.terms.demand if record.terms is not None else None
    return demand is not None and demand.due_at <= now
