"""Which connection of ours belongs to this transport, protocol or writer of an event loop?

Transports are told apart by identity: a protocol may compare by value, and then it cannot be
hashed. Nothing here keeps one alive, as asyncio notices a forgotten transport by its death.

uvloop's TLS transports cannot be weakly referred to. One of them is held by a stand-in, which
lives as long as its protocol: that is held by the transport until the connection is lost, and
no longer, so both can die then.

A connection can change its transport. `start_tls` puts one of its own on top, and hands it to
the same protocol or to another one. So a transport that nobody has announced is looked for by
its protocol, and then by its descriptor: while the transport below is open, the number is its own.
"""

import asyncio
import contextlib
import functools
import weakref
from collections.abc import Callable
from typing import Any

from sockguard._engine.guard import Guard
from sockguard._engine.handle import GuardedConnection
from sockguard._engine.terms import Terms
from sockguard._engine.transports import fd_of_transport, socket_of

__all__ = ["Member", "Members"]


class StandIn:
    """Stands for a transport that cannot be weakly referred to."""

    __slots__ = ("__weakref__", "transport")

    def __init__(self, transport: Any) -> None:
        self.transport = transport

    def __call__(self) -> Any:
        return self.transport

    def __getattr__(self, name: str) -> Any:
        """Passes on what the guard asks of a transport."""
        return getattr(self.transport, name)


class Member:
    """One guarded transport, as its event loop's side keeps it.

    Args:
        transport: What the connection was made with.
        terms: Shared with the guard.
        group: What it has in common with others: those of one server.
    """

    __slots__ = ("_connection", "_guard", "group", "is_abandoned", "mark", "terms", "transport")

    def __init__(self, transport: Any, terms: Terms, guard: Guard, group: object) -> None:
        self.transport: Callable[[], Any]
        """Gives what the connection was made with; None if that has died."""
        try:
            self.transport = weakref.ref(transport)
        except TypeError:
            self.transport = StandIn(transport)
        self._guard = guard
        self._connection: GuardedConnection | None = None
        self.terms = terms
        self.group = group
        self.is_abandoned = False
        """Its handler has ended, and did not say that somebody else has it now."""
        self.mark: tuple[object, float] | None = None
        """How far it was when it was last seen to move, while it is waited for at the end of its server."""

    @property
    def connection(self) -> GuardedConnection:
        """What the program sees of it; made when it is first asked for."""
        if self._connection is None:
            self._connection = GuardedConnection(functools.partial(_socket_at, self.transport), self.terms, self._guard)
        return self._connection

    @property
    def owner(self) -> Any:
        """What the guard refers to weakly, and asks to abort."""
        return self.transport if isinstance(self.transport, StandIn) else self.transport()


class _Entry(weakref.ref[Any]):
    """A weak reference to a transport or protocol, with its place in the table."""

    __slots__ = ("member", "number")
    member: Member
    number: int


class Members:
    """The guarded transports and their protocols."""

    def __init__(self) -> None:
        self._entries: dict[int, _Entry] = {}

    def add(self, thing: Any, member: Member) -> None:
        """Takes note of a transport or a protocol; of one that cannot be weakly referred to nothing is noted."""
        try:
            entry = _Entry(thing, self._forget)
        except TypeError:  # a class with __slots__, or in C
            return
        entry.number, entry.member = id(thing), member
        self._entries[entry.number] = entry

    def _forget(self, entry: _Entry) -> None:
        if self._entries.get(entry.number) is entry:
            del self._entries[entry.number]

    def of(self, thing: Any) -> Member | None:
        """Finds the member of a transport or protocol that was announced."""
        entry = self._entries.get(id(thing))
        return entry.member if entry is not None and entry() is thing else None

    def of_group(self, group: object) -> list[Member]:
        """Lists the members of a group whose transports are open."""
        members = {id(entry.member): entry.member for entry in tuple(self._entries.values())}
        return [m for m in members.values() if m.group is group and fd_of_transport(m.transport()) >= 0]

    def find(self, thing: Any) -> Member | None:
        """Finds the member of a transport, a protocol, or whatever has an attribute `transport`, as a writer."""
        transport = getattr(thing, "transport", thing)
        found = self.of(thing) or self.of(transport) or self._of_replaced(transport)
        if found is None and isinstance(thing, asyncio.StreamWriter):  # of a TLS transport that is closed by now
            found = self.of(thing._protocol)  # type: ignore[attr-defined] # noqa: SLF001
        return found

    def _of_replaced(self, transport: Any) -> Member | None:
        """Finds the one whose transport was replaced by this."""
        with contextlib.suppress(AttributeError):  # no transport; or one of TLS that was closed twice
            if (found := self.of(transport.get_protocol())) is not None:
                return found
        return self._search(transport)

    def _search(self, transport: Any) -> Member | None:
        """Looks at them all: only for a transport that has replaced another, or cannot be weakly referred to."""
        fd = fd_of_transport(transport)
        for entry in tuple(self._entries.values()):
            made_with = entry.member.transport()
            if made_with is transport is not None or (fd >= 0 and fd_of_transport(made_with) == fd):
                return entry.member
        return None


def _socket_at(transport: Callable[[], Any]) -> Any:
    return socket_of(transport())
