"""What is told when a wrapper ends a connection by itself: by all wrappers, here, and once for each connection.

The guard tells of what it ends. A wrapper also ends connections of its own accord: on the very
call that failed, at the end of a handler, in `select()`. Which of that is news, and how loud:
docs/decisions/0017-what-a-wrapper-tells.md. Nothing is done here while bytes flow, nor
for a connection that ends as it should.
"""

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

from sockguard._core.decide import Action, Reason, Verdict
from sockguard._core.facts import Names
from sockguard._engine.announcer import Announcer
from sockguard._engine.record import Record, stranger
from sockguard._engine.registry import Registry
from sockguard._engine.stamped_records import StampedRecords
from sockguard._engine.terms import Terms
from sockguard._kernel.names import read_names
from sockguard._kernel.natives import monotonic
from sockguard._kernel.one_socket import fd_of, find_cookie
from sockguard._kernel.unread import count_unread

__all__ = ["Ending", "Endings"]

_now = monotonic
_Failed = Callable[[str, Exception], object]


class Ending:
    """A connection that a wrapper is about to end; looked at before, while it has a descriptor.

    Args:
        failed: Called with where and what went wrong in here, which must not reach the application.
        record: Of the connection; None if nobody knows it.
        told: Fields of the event that are known by now; None if it is only to be counted.
    """

    __slots__ = ("_announcer", "_failed", "_reason", "_record", "_told")

    def __init__(
        self,
        announcer: Announcer,
        failed: _Failed,
        reason: Reason,
        record: Record | None,
        told: Mapping[str, object] | None,
    ) -> None:
        self._announcer, self._failed, self._reason = announcer, failed, reason
        self._record, self._told = record, told

    def verdict(self, setting: str | None = None, limit: float | None = None, seconds: float | None = None) -> Verdict:
        """Makes the verdict by which it is ended.

        Args:
            setting: The field of the policy that decided, and `limit` its value.
            seconds: For how long it had lasted; if not given, the age of the connection.
        """
        if seconds is None and self._record is not None:
            seconds = max(0.0, _now() - self._record.opened_at)
        return Verdict(Action.SHUT_DOWN, self._reason, setting, limit, seconds)

    def tell(self, verdict: Verdict, step: str, **more: object) -> None:
        """Tells of it, unless somebody has. Never raises.

        Args:
            step: What was done: one of `STEPS` of `_core/event_texts.py`.
            more: Other fields of the event: `error`, `unread`.
        """
        if self._record is None:
            return
        try:
            fields = {"unread": None, **(self._told or {}), "step": step, **more}
            self._announcer.ended(self._record, verdict, _now(), fields, is_to_count=self._told is None)
        except Exception as failure:  # noqa: BLE001 - nothing of ours may reach the application
            self._failed("endings", failure)


class Endings:
    """Looks at connections that wrappers are about to end; from any thread.

    Args:
        stamped: The records of connections with books of their own.
    """

    def __init__(self, announcer: Announcer, registry: Registry, stamped: StampedRecords, failed: _Failed) -> None:
        self._announcer, self._registry, self._failed = announcer, registry, failed
        self.stamped = stamped

    def of(
        self, sock: Any, terms: Terms | None, reason: Reason, record: Record | None = None, names: Names | None = None
    ) -> Ending:
        """Looks at a connection before it is ended. Never raises; of one that nobody knows any more nothing is told.

        Args:
            sock: Its socket, or what an event loop gives in place of one.
            terms: Its own; None if it has none.
            reason: Why it is ended.
            record: The guard's, if the wrapper knows it.
            names: Its addresses, if its socket may be closed and they are known.
        """
        told: dict[str, object] | None = None
        try:
            record = record or self._find(sock, terms)
            if record is not None and not self._announcer.is_counted_only(record, reason, _now()):
                told = _look(sock, record, names)
        except Exception as failure:  # noqa: BLE001 - as above
            self._failed("endings", failure)
        return Ending(self._announcer, self._failed, reason, record, told)

    def _find(self, sock: Any, terms: Terms | None) -> Record | None:
        """Finds the record of a connection; of one that was opened since the last tick, makes one."""

        def is_it(ref: Callable[[], Any], its: Terms | None) -> bool:
            return ref() is sock if terms is None else its is terms

        fd, has_books = fd_of(sock), terms is not None and terms.books is not None
        of_kernel = self._registry.by_fd.get(fd if fd >= 0 or terms is None else terms.fd)
        known: list[Record | None] = [of_kernel]
        if has_books:
            own = self.stamped.by_key.get(id(sock))
            known = [own] if own is not None else [*self.stamped.all()]  # a transport's is known by another object
        for record in known:
            if record is not None and is_it(record, record.terms):
                return record
        for entry in tuple(self.stamped.opened if has_books else self._registry.opened):
            if is_it(entry[0], entry[5]):
                return _not_enlisted(entry, fd)
        return _unknown(fd, terms) if fd >= 0 else None


def _look(sock: Any, record: Record, names: Names | None) -> dict[str, object]:
    """Completes the record of a connection; gives what else is to be told of it."""
    if record.names is None or record.names.remote is None:
        record.names = names or read_names(sock)
    record.cookie = record.cookie or find_cookie(getattr(sock, "_sock", sock))
    told: dict[str, object] = {"unread": 0}
    with contextlib.suppress(OSError, ValueError, ImportError):  # closed; Windows
        told["unread"] = count_unread(fd_of(sock))
    if record.site is None and not record.has_object:  # the guard knows nothing of it
        told["side"] = None
    return told


def _not_enlisted(entry: tuple[Any, ...], fd: int) -> Record:
    """Makes a record, for the telling only, of what was opened since the last tick."""
    owner, (_, is_server, loop, site, terms) = entry[0](), entry[1:6]
    if owner is None:
        return _unknown(fd, terms)
    return Record(owner, None, fd, None, _now(), is_server, loop, site, terms)


def _unknown(fd: int, terms: Terms | None) -> Record:
    """Makes one of a connection that the guard does not know."""
    record = stranger(fd, None, _now(), is_server=True)
    record.terms = terms
    return record
