"""Every socket object is taken down when it is made, and when it is thrown away while open. For tests only.

A finaliser tells of the latter: `socket.socket` gets a `__del__`, which runs before that of
`_socket.socket` closes the descriptor. Three others close what was forgotten before the
socket's own finaliser comes: those of asyncio's transports and stream writers, and the
`close()` of uvloop's loop.
"""

import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

from sockguard._engine.blame.births import Births
from sockguard._engine.hooks import Hook, Replacement
from sockguard._kernel.one_socket import fd_of

__all__ = ["hooks"]


def hooks(births: Births, before_loop_closes: Callable[[], Callable[[], object]]) -> list[Hook]:
    """Lists what is wrapped.

    Args:
        births: takes the sockets down.
        before_loop_closes: called when a loop of uvloop is about to be closed; returns what to call afterwards.
    """
    return [
        Hook("socket", "socket.__init__", _on_init(births)),
        Hook("socket", "socket.__del__", _on_del(births, _of_socket)),
        Hook("concurrent.futures.thread", "_WorkItem.__init__", _on_job(births)),
        Hook("asyncio.selector_events", "_SelectorTransport.__del__", _on_del(births, _of_transport)),
        Hook("asyncio.streams", "StreamWriter.__del__", _on_del(births, _of_writer)),
        Hook("uvloop", "Loop.close", _on_close(before_loop_closes)),
        *(Hook("uvloop", f"Loop.{name}", _on_open(births)) for name in OPENERS),
    ]


OPENERS = ("create_connection", "create_unix_connection", "create_datagram_endpoint")
"""What opens sockets in C, where the stack tells nothing any more by the time they are found."""


def _on_open(births: Births) -> Replacement:
    def make(theirs: Callable[..., Any]) -> Callable[..., Any]:
        def opens(self: Any, *args: Any, **kwargs: Any) -> Any:
            return _note(births, births.calls(), theirs(self, *args, **kwargs))

        return opens

    return Replacement(make)


async def _note(births: Births, calls: Any, opening: Awaitable[Any]) -> Any:
    opened = await opening
    births.opened(int(opened[0].get_extra_info("socket").fileno()), calls)
    return opened


def _on_init(births: Births) -> Replacement:
    def make(theirs: Callable[..., None]) -> Callable[..., None]:
        def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807 - the name it is shown by
            theirs(self, *args, **kwargs)
            births.born(self)

        return __init__

    return Replacement(make)


def _on_job(births: Births) -> Replacement:
    def make(theirs: Callable[..., None]) -> Callable[..., None]:
        def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807
            theirs(self, *args, **kwargs)
            births.given(self)

        return __init__

    return Replacement(make)


def _on_del(births: Births, owned: Callable[[Any], tuple[int, Any]]) -> Replacement:
    """Makes a finaliser.

    Args:
        births: takes it down.
        owned: gives the descriptor and the socket object that something owns; -1 if it owns none any more.
    """

    def make(theirs: Callable[[Any], None]) -> Callable[[Any], None]:
        def __del__(self: Any) -> None:  # noqa: N807
            with contextlib.suppress(Exception):  # at the end of the interpreter anything may be missing
                births.thrown_away(*owned(self))
            theirs(self)

        return __del__

    return Replacement(make)


def _of_socket(sock: Any) -> tuple[int, Any]:
    return fd_of(sock), sock


def _of_transport(transport: Any) -> tuple[int, Any]:
    sock = transport._sock  # noqa: SLF001 - what its own finaliser looks at
    return (-1, None) if sock is None else (fd_of(sock), sock)


def _of_writer(writer: Any) -> tuple[int, Any]:
    transport = writer.transport
    return (-1, None) if transport.is_closing() else (int(transport.get_extra_info("socket").fileno()), None)


def _on_close(before_loop_closes: Callable[[], Callable[[], object]]) -> Replacement:
    def make(theirs: Callable[[Any], None]) -> Callable[[Any], None]:
        def close(self: Any) -> None:
            afterwards = before_loop_closes()
            try:
                theirs(self)
            finally:
                afterwards()

        return close

    return Replacement(make)
