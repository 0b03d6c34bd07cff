"""The standard library's sockets: whatever accepts or connects through `socket.socket` is adopted.

So are socketserver, http.server, asyncio (its loops call `sock.accept` and `sock.connect`),
trio, and all that is built on them. What sends and receives is not touched.
"""

from collections.abc import Callable
from typing import Any

from sockguard._engine.accepting import UNDER_WAY, shed
from sockguard._engine.guard import Guard
from sockguard._engine.hooks import Hook, Replacement
from sockguard._kernel.own_fds import NO_DESCRIPTOR

__all__ = ["hooks"]


def hooks(guard: Guard) -> list[Hook]:
    """Lists what is wrapped in the module `socket`."""
    return [Hook("socket", "socket.accept", _accept(guard)), *_connects(guard)]


def _accept(guard: Guard) -> Replacement:
    adopt, descriptors = guard.adopt, guard.descriptors

    def make(theirs: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def accept(self: Any) -> Any:
            try:
                accepted = theirs(self)
            except OSError as error:
                if error.errno in NO_DESCRIPTOR:
                    guard.was_refused()
                raise
            if descriptors.sheds_dead:
                accepted = shed(guard, self, accepted, theirs)
            adopt(accepted[0], accepted[0], True, self)
            return accepted

        return accept

    return Replacement(make)


def _connects(guard: Guard) -> list[Hook]:
    def connect(wrapped: Callable[..., Any], instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        try:
            result = wrapped(*args, **kwargs)
        except (BlockingIOError, InterruptedError):
            guard.adopt(instance, instance, False)
            raise
        guard.adopt(instance, instance, False)
        return result

    def connect_ex(wrapped: Callable[..., Any], instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        number = wrapped(*args, **kwargs)
        if number in UNDER_WAY:
            guard.adopt(instance, instance, False)
        return number

    return [Hook("socket", "socket.connect", connect), Hook("socket", "socket.connect_ex", connect_ex)]
