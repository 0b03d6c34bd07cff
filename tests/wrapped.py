"""Guarded sockets in a test: a guard that is driven by hand in place of the process's, and connections."""

import contextlib
import socket
from collections.abc import Iterator
from typing import NamedTuple

import sockguard
from guarded import Driven, driven
from sockguard import _process
from sockguard._core.policy import Policy
from sockguard._engine.current import current_guard, set_current_guard, set_maker

__all__ = ["Pair", "pair", "shared"]


class Pair(NamedTuple):
    """A listener, what it accepted, and the plain client of that."""

    listener: sockguard.GuardedSocket
    server: sockguard.GuardedSocket
    client: socket.socket


@contextlib.contextmanager
def shared(**fields: object) -> Iterator[Driven]:
    """Has all wrappers share a guard without a thread; its policy is of these fields."""
    with driven(**fields) as d:
        set_maker(lambda _: d.guard)
        before = current_guard()
        set_current_guard(d.guard)
        try:
            yield d
        finally:
            set_current_guard(before)
            set_maker(_process._share)  # noqa: SLF001


@contextlib.contextmanager
def pair(*, family: int = socket.AF_INET, **fields: object) -> Iterator[Pair]:
    """Makes a connection whose server's end is guarded, by a policy of its own if there are fields."""
    host = "127.0.0.1" if family == socket.AF_INET else "::1"
    policy = Policy(**fields) if fields else None
    with (
        sockguard.create_server((host, 0), family=family, policy=policy) as listener,
        socket.create_connection(listener.getsockname()[:2], timeout=10) as client,
    ):
        server, _ = listener.accept()
        with server:
            yield Pair(listener, server, client)
