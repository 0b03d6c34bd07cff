"""Which connections does the guard watch? By descriptor, each with the cookie that says which connection is meant.

Threads of the application only append what they have opened to a deque, which is atomic.
All else is done by the one thread that ticks, so there is no lock that an accept() could
wait for, and a connection that is closed before the next tick costs next to nothing: of
those that have come and gone under one number, only the last is asked for.

So identity begins at the first tick. If by then the object has let go of its descriptor
(`SSLContext.wrap_socket` and `detach()` hand it on), whatever connection has that number
is taken in; it is one of this process, and nobody else has announced it. But explicit terms
hold for the very connection that they were said of: there, identity begins when it is announced.
"""

import math
from collections import deque
from collections.abc import Iterator
from typing import Any, TypeVar

from sockguard._core.fd_table import FdTable
from sockguard._engine.record import LoopRef, Record, stranger
from sockguard._engine.sites import Site
from sockguard._engine.terms import Terms
from sockguard._engine.transports import fd_of_transport
from sockguard._kernel.one_socket import fd_of, find_cookie

__all__ = ["Entry", "Registry", "welcome"]

MAX_HANDED_ON = 1024
"""Connections of explicit terms that are remembered after their number was closed, as a duplicate may live."""
MAX_GHOSTS = 4096
"""Connections remembered that this process has closed while a forked child may hold them, some 100 bytes each."""

T = TypeVar("T")
Entry = tuple[Any, int, bool, LoopRef | None, Site, Terms | None, int | None]
"""What is known of a connection when it is opened: a weak reference to its owner, the descriptor (-1 where
the owner is a transport, which will tell), whether we accepted it, its event loop, its site, and of one that is
guarded explicitly the terms, and its cookie (None where the owner is a transport: its descriptor is its own).

When it was opened is taken to be the next tick, so that no time-out of it comes early."""


class Registry:
    """The records of this process."""

    def __init__(self) -> None:
        self.by_fd: FdTable[Record] = FdTable()
        self.opened: deque[Entry] = deque()
        """What was opened since the last tick; appended to from any thread."""
        self._new: deque[Record] = deque()
        self._died: deque[Record] = deque()
        self._note_death = self._died.append  # made once, as it is 80 bytes, and every record refers to one
        self._displaced: list[Record] = []
        self._ghosts: dict[int, Record] = {}
        self.handed_on: dict[int, Terms] = {}
        """By cookie, the terms of what was closed, and may have been handed on by a duplicate."""
        self._forked_at = -math.inf

    def enlist(self, now: float) -> None:
        """Makes records of what was opened, the last of each descriptor."""
        last: dict[int, Entry] = {}
        take = self.opened.popleft
        for _ in range(len(self.opened)):  # of thousands, most are closed by now: no call for these
            entry = take()
            if (fd := entry[1]) >= 0 or (entry[0]() is not None and (fd := _fd_of(entry[0]())) >= 0):
                before = last.get(fd)
                last[fd] = entry if before is None or before[0] is not entry[0] else _announced_again(before, entry)
        for fd in list(last):
            self._enlist(fd, last.pop(fd), now)  # so the memory of one entry serves the next record

    def _enlist(self, fd: int, entry: Entry, now: float) -> None:
        ref, given_fd, is_server, loop, site, terms, cookie = entry
        if terms is not None:
            terms.fd = fd
        owner, old = ref(), self.by_fd.get(fd)
        if old is not None:
            if owner is not None and old() is owner:
                self._agree_anew(old, terms)
                return
            self._displaced.append(old)
        if terms is None and old is not None and old.cookie is not None and old.cookie == find_cookie(owner):
            terms = old.terms  # handed on, as by `SSLContext.wrap_socket`: what was said of it still holds
        if owner is None or (given_fd >= 0 and not _is_at(owner, fd)):
            record = stranger(fd, cookie, now, is_server=is_server)
            record.loop, record.site, record.terms = loop, site, terms
        else:
            record = Record(owner, self._note_death, fd, cookie, now, is_server, loop, site, terms)
        self.by_fd[fd] = record
        self._new.append(record)

    def _agree_anew(self, record: Record, terms: Terms | None) -> None:
        """Takes note that a connection was announced again: connect_ex() that asks how far it is, or a wrapper."""
        if terms is not None:
            record.terms = terms
            self._new.append(record)  # its policy may set a time

    def take_new(self, now: float) -> Iterator[Record]:
        """Takes out the records that nobody has looked at yet."""
        self.enlist(now)
        return _take(self._new, self.by_fd)

    def take_died(self) -> Iterator[Record]:
        """Takes out the records whose object has died, as far as they still matter."""
        return _take(self._died, self.by_fd)

    def take_displaced(self) -> list[Record]:
        """Takes out the records whose number was given to another connection."""
        displaced, self._displaced = self._displaced, []
        return displaced

    def waiting(self) -> set[int]:
        """Tells the descriptors of those that are new, whose turn has not come."""
        return {record.fd for record in tuple(self._new)}

    def postpone(self, record: Record) -> None:
        """Puts a record back among the new ones."""
        self._new.append(record)

    def forget(self, record: Record) -> None:
        """Drops a connection that this process has closed.

        If it was open when the process forked, a child may hold it still: then its cookie
        is remembered, so that it is recognised.
        """
        if self.by_fd.get(record.fd) is record:
            del self.by_fd[record.fd]
        if record.opened_at <= self._forked_at and record.cookie is not None:
            _remember(self._ghosts, record.cookie, record, MAX_GHOSTS)
        if record.terms is not None and record.cookie is not None:
            _remember(self.handed_on, record.cookie, record.terms, MAX_HANDED_ON)

    def records(self) -> list[Record]:
        """Lists all records; from any thread."""
        return self.by_fd.listed()

    def ghost(self, cookie: int) -> Record | None:
        """Finds a connection that this process has closed, and a child may hold."""
        return self._ghosts.get(cookie)

    def lay(self, cookie: int) -> None:
        """Forgets a ghost for good."""
        self._ghosts.pop(cookie, None)

    def after_fork(self, now: float) -> None:
        """Takes note, in the parent, that a child may hold what is open now; and by which cookie it is to be known."""
        self.enlist(now)
        for record in self._new:
            record.cookie = record.cookie or find_cookie(record())
        self._forked_at = now

    def after_fork_in_child(self) -> None:
        """Starts anew in a forked child, with what it has inherited; the loops of its parent do not run there."""
        for record in self.by_fd.values():
            record.loop = None
            if record.connection is not None:
                record.connection = record.connection._replace(has_loop=False)
        self._ghosts.clear()
        self._new.clear()


def welcome(registry: Registry, record: Record) -> None:
    """Takes in a connection that nobody has announced; by its own terms, if it was known by another number.

    That is one that the program has duplicated by its number, and then closed by the number that we knew.
    """
    registry.by_fd[record.fd] = record
    terms = registry.handed_on.pop(record.cookie or 0, None)
    if terms is not None:
        terms.fd, record.terms = record.fd, terms


def _remember(table: dict[int, T], cookie: int, thing: T, most: int) -> None:
    table[cookie] = thing
    while len(table) > most:
        del table[next(iter(table))]


def _take(queue: deque[Record], by_fd: FdTable[Record]) -> Iterator[Record]:
    for _ in range(len(queue)):
        record = queue.popleft()
        if by_fd.get(record.fd) is record:
            yield record


def _announced_again(first: Entry, entry: Entry) -> Entry:
    """Keeps of one that was announced twice who opened it, on which loop and where; the terms are the later ones."""
    return (*first[:5], entry[5] or first[5], entry[6] or first[6])


def _fd_of(transport: Any) -> int:
    """Tells the descriptor of a transport; -1 if it has none any more, or is none."""
    try:
        return -1 if transport is None or transport.is_closing() else fd_of_transport(transport)
    except Exception:  # noqa: BLE001 - code of whatever library, and one must not keep the others from being enlisted
        return -1


def _is_at(owner: Any, fd: int) -> bool:
    """Tells whether a socket object still has the descriptor that it had."""
    try:
        return bool(fd_of(owner) == fd)
    except Exception:  # noqa: BLE001 - as above
        return False
