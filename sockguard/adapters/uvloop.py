"""uvloop: it accepts and connects in C, so the transport is adopted when its protocol gets it."""

from collections.abc import Callable
from typing import Any

from sockguard._engine.guard import Guard
from sockguard._engine.hooks import Hook, Replacement
from sockguard._engine.record import running_loop

__all__ = ["hooks"]


def hooks(guard: Guard) -> list[Hook]:
    """Lists what is wrapped in uvloop: that which takes a protocol factory."""
    watched: set[type] = set()
    return [
        Hook("uvloop", "Loop.create_server", _with_factory(guard, watched, is_server=True)),
        Hook("uvloop", "Loop.create_connection", _with_factory(guard, watched, is_server=False)),
    ]


def _with_factory(guard: Guard, watched: set[type], *, is_server: bool) -> Callable[..., Any]:
    def create(wrapped: Callable[..., Any], instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args:
            args = (watching(args[0]), *args[1:])
        elif "protocol_factory" in kwargs:
            kwargs = kwargs | {"protocol_factory": watching(kwargs["protocol_factory"])}
        return wrapped(*args, **kwargs)

    def watching(factory: Callable[[], Any]) -> Callable[[], Any]:
        """Makes a factory whose protocols, once connected, have their transport adopted."""

        def make() -> Any:
            protocol = factory()
            if type(protocol) not in watched:
                watched.add(type(protocol))
                _watch_class(guard, type(protocol), is_server=is_server)
            return protocol

        return make

    return create


def _watch_class(guard: Guard, protocol: type, *, is_server: bool) -> None:
    """Wraps `connection_made` of a protocol class."""
    if protocol.__flags__ & IMMUTABLE or guard.wrap is None:
        return  # of such connections only the kernel's list will tell

    def make(theirs: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        def connection_made(self: Any, transport: Any) -> Any:
            loop = running_loop()
            if type(loop).__module__.startswith("uvloop"):
                guard.adopt_transport(transport, loop, is_server)
            return theirs(self, transport)

        return connection_made

    guard.wrap(protocol, "connection_made", Replacement(make))


IMMUTABLE = 1 << 8
"""Py_TPFLAGS_IMMUTABLETYPE: a class in C takes no attribute."""
