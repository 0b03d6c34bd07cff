"""uvloop: it accepts and connects in C, so the transport is adopted when its protocol gets it."""

import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

from sockguard._engine.guard import Guard
from sockguard._engine.hooks import Hook, Replacement
from sockguard._engine.record import running_loop
from sockguard._engine.sites import Site, capture

__all__ = ["hooks"]

IMMUTABLE = 1 << 8
"""Py_TPFLAGS_IMMUTABLETYPE: a class in C takes no attribute."""
MAX_CLASSES = 1000
"""Classes of protocols that are wrapped at once; a program that makes one for each connection must not grow for it."""

Arguments = tuple[Any, ...]


def hooks(guard: Guard) -> list[Hook]:
    """Lists what is wrapped in uvloop: that which takes a protocol factory."""
    adopter = _Adopter(guard)
    return [
        Hook("uvloop", "Loop.create_server", adopter.create_server),
        Hook("uvloop", "Loop.create_connection", adopter.create_connection),
        Hook("uvloop", "Loop.connect_accepted_socket", adopter.connect_accepted_socket),
    ]


class _Awaited(NamedTuple):
    """A protocol for one connection that is asked for. Its class does not say of which side: streams' serves both."""

    protocol: weakref.ref[Any]
    is_server: bool
    site: Site


class _Adopter:
    """Adopts each transport when the protocol that it was made for gets it."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._watched: weakref.WeakSet[type] = weakref.WeakSet()
        self._awaited: dict[int, _Awaited] = {}

    def create_server(self, wrapped: Callable[..., Any], _: Any, args: Arguments, kwargs: dict[str, Any]) -> Any:
        """Stands in front of the method of this name."""
        return self._call(wrapped, args, kwargs, self._watch)

    def create_connection(self, wrapped: Callable[..., Any], _: Any, args: Arguments, kwargs: dict[str, Any]) -> Any:
        """Stands in front of the method of this name; only here the stack tells who wants the connection."""
        site = capture(2)
        return self._call(wrapped, args, kwargs, lambda protocol: self._await(protocol, False, site))

    def connect_accepted_socket(
        self, wrapped: Callable[..., Any], _: Any, args: Arguments, kwargs: dict[str, Any]
    ) -> Any:
        """Stands in front of the method of this name: accept() announced the socket, which the transport now owns."""
        site = capture(2)
        return self._call(wrapped, args, kwargs, lambda protocol: self._await(protocol, True, site))

    def _call(
        self, method: Callable[..., Any], args: Arguments, kwargs: dict[str, Any], watch: Callable[[Any], object]
    ) -> Any:
        """Calls a method that takes a protocol factory, with one whose protocols are watched."""
        if args:
            args = (self._watching(args[0], watch), *args[1:])
        elif "protocol_factory" in kwargs:
            kwargs = kwargs | {"protocol_factory": self._watching(kwargs["protocol_factory"], watch)}
        return method(*args, **kwargs)

    def _watching(self, factory: Callable[[], Any], watch: Callable[[Any], object]) -> Callable[[], Any]:
        def make() -> Any:
            protocol = factory()
            try:
                watch(protocol)
            except Exception as error:  # noqa: BLE001 - such as a class that takes no attribute; it works as ever
                self._guard.failed("uvloop", error)
            return protocol

        return make

    def _watch(self, protocol: Any) -> None:
        """Wraps `connection_made` of a protocol's class, once; what is left out, the kernel's list will tell of."""
        kind = type(protocol)
        if kind in self._watched or len(self._watched) >= MAX_CLASSES:
            return
        self._watched.add(kind)
        if self._guard.wrap is not None and not kind.__flags__ & IMMUTABLE:
            self._guard.wrap(kind, "connection_made", Replacement(self._replace))

    def _await(self, protocol: Any, is_server: bool, site: Site) -> None:
        self._watch(protocol)
        key, awaited = id(protocol), self._awaited

        def forget(gone: weakref.ref[Any]) -> None:
            if key in awaited and awaited[key].protocol is gone:
                del awaited[key]

        awaited[key] = _Awaited(weakref.ref(protocol, forget), is_server, site)

    def _replace(self, theirs: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        guard, awaited = self._guard, self._awaited

        def connection_made(self: Any, transport: Any) -> Any:
            loop = running_loop()
            if type(loop).__module__.startswith("uvloop"):
                known = awaited.get(id(self))
                if known is None or known.protocol() is not self:
                    guard.adopt_transport(transport, loop, True)
                else:
                    guard.adopt_transport(transport, loop, known.is_server, known.site)
            return theirs(self, transport)

        return connection_made
