"""gevent's sockets, whether the program was monkey-patched or uses them by name."""

from collections.abc import Callable
from typing import Any

from sockguard._engine.guard import Guard
from sockguard._engine.hooks import Hook
from sockguard._kernel.own_fds import NO_DESCRIPTOR

__all__ = ["hooks"]


def hooks(guard: Guard) -> list[Hook]:
    """Lists what is wrapped in gevent. Each of its sockets holds a plain one, which does the work."""

    def accept(wrapped: Callable[..., Any], instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        try:
            accepted = wrapped(*args, **kwargs)
        except OSError as error:
            if error.errno in NO_DESCRIPTOR:
                guard.was_refused()
            raise
        if accepted is not None:  # StreamServer: nobody was there after all
            _adopt(guard, accepted[0], is_server=True)
        return accepted

    def connect(wrapped: Callable[..., Any], instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        result = wrapped(*args, **kwargs)
        _adopt(guard, instance, is_server=False)
        return result

    return [
        Hook("gevent._socket3", "socket.accept", accept),
        Hook("gevent._socket3", "socket.connect", connect),
        Hook("gevent._socket3", "socket.connect_ex", connect),
        Hook("gevent.server", "StreamServer.do_read", accept),
    ]


def _adopt(guard: Guard, sock: Any, *, is_server: bool) -> None:
    raw = getattr(sock, "_sock", None)
    if raw is not None:
        guard.adopt(sock, raw, is_server)
