"""Which connections does the guard watch? By descriptor, each with the cookie that says which connection is meant.

Threads of the application only put records in, by operations that are atomic: a new
record into a dict and onto a deque, a dead one onto another. All else is done by the one
thread that ticks. So there is no lock that an accept() could wait for.

A connection that is closed before the next tick costs no more than that. Of those that
have come and gone under one number, only the last is asked for.
"""

from collections import deque
from collections.abc import Iterator

from sockguard._engine.record import Record

__all__ = ["Registry"]

MAX_GHOSTS = 4096
"""Connections remembered that this process has closed while a forked child may hold them, some 100 bytes each."""


class Registry:
    """The records of this process."""

    def __init__(self) -> None:
        self.by_fd: dict[int, Record] = {}
        self.died: deque[Record] = deque()
        self._new: deque[Record] = deque()
        self._ghosts: dict[int, Record] = {}
        self._has_forked = False

    def add(self, record: Record) -> None:
        """Takes a new connection in; from any thread."""
        self.by_fd[record.fd] = record
        self._new.append(record)

    def take_new(self) -> Iterator[Record]:
        """Takes out the records that nobody has looked at yet, the last of each descriptor."""
        return self._take(self._new)

    def take_died(self) -> Iterator[Record]:
        """Takes out the records whose object has died, as far as they still matter."""
        return self._take(self.died)

    def _take(self, queue: deque[Record]) -> Iterator[Record]:
        for _ in range(len(queue)):
            record = queue.popleft()
            if self.by_fd.get(record.fd) is record:
                yield record

    def postpone(self, record: Record) -> None:
        """Puts a record back among the new ones, if its descriptor has no newer one."""
        if self.by_fd.get(record.fd) is record:
            self._new.append(record)

    def forget(self, record: Record) -> None:
        """Drops a connection that this process has closed.

        If it was open when the process forked, a child may hold it still: then its cookie
        is remembered, so that it is recognised.
        """
        if self.by_fd.get(record.fd) is record:
            del self.by_fd[record.fd]
        if self._has_forked and record.cookie is not None:
            self._ghosts[record.cookie] = record
            while len(self._ghosts) > MAX_GHOSTS:
                del self._ghosts[next(iter(self._ghosts))]

    def records(self) -> list[Record]:
        """Lists all records; from any thread."""
        return list(self.by_fd.values())

    def ghost(self, cookie: int) -> Record | None:
        """Finds a connection that this process has closed, and a child may hold."""
        return self._ghosts.get(cookie)

    def lay(self, cookie: int) -> None:
        """Forgets a ghost for good."""
        self._ghosts.pop(cookie, None)

    def after_fork(self) -> None:
        """Takes note, in the parent, that from now on a child may hold what is closed here."""
        self._has_forked = True

    def after_fork_in_child(self) -> list[Record]:
        """Starts anew in a forked child, and lists what it has inherited."""
        self._ghosts.clear()
        self._new.clear()
        return self.records()
