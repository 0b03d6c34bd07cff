#!/usr/bin/env python3
"""CPython's own test_selectors, plain and with GuardedSelector around each selector: no outcome may change.

    tools/conformance_shim/selectors_shim.py

Run it with each interpreter that is to be tried, with sockguard and what it needs on PYTHONPATH. All
is run twice: with the socket pairs of the tests, which are Unix sockets, and with TCP connections in
their place, which the guard takes in.

Exit status 0: nothing changed, or it could not be run here, which is said aloud; 1: something changed.
"""

import abc
import importlib
import selectors
import socket
import sys
from typing import Any

from side_by_side import Shim

NAMES = ("SelectSelector", "PollSelector", "EpollSelector", "KqueueSelector", "DevpollSelector")
WAYS = ("unix", "tcp")
MAX_FDS = 4096
"""With TCP, as test_above_fd_setsize makes as many connections as it may have descriptors."""


class _Twin(abc.ABCMeta):
    """Hands on what a test patches in the class to the original, where it has its effect."""

    original: Any

    def __setattr__(cls, name: str, value: object) -> None:
        super().__setattr__(name, value)
        if name == "_selector_cls":
            setattr(cls.original, name, value)


def guarded(original: Any) -> Any:  # noqa: ANN401 - any selector
    """Makes a class that looks like a selector of the standard library, and guards it."""
    from sockguard.wrappers import GuardedSelector  # noqa: PLC0415 - the plain side must not load it

    def make(self: Any) -> None:  # noqa: ANN401
        GuardedSelector.__init__(self, original())
        n_made[0] += 1

    body = {"__init__": make, "original": original}
    if hasattr(original, "_selector_cls"):
        body["_selector_cls"] = original._selector_cls  # noqa: SLF001
    return _Twin(original.__name__, (GuardedSelector,), body)


n_made = [0]


def swap() -> None:
    """Puts guarded selectors under the names of the standard library."""
    default = selectors.DefaultSelector
    for name in NAMES:
        original = getattr(selectors, name, None)
        if original is not None:
            twin = guarded(original)
            setattr(selectors, name, twin)
            if original is default:
                setattr(selectors, "DefaultSelector", twin)  # noqa: B010 - it is a class to the type checker


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """Makes a TCP connection in place of a socket pair."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        return client, listener.accept()[0]


def load(way: str) -> Any:  # noqa: ANN401 - a module
    """Imports the tests, with the connections that they are to have."""
    tests = importlib.import_module("test.test_selectors")
    if way == "tcp":
        import resource  # noqa: PLC0415 - not on Windows, where nothing is run

        resource.setrlimit(resource.RLIMIT_NOFILE, (MAX_FDS, MAX_FDS))
        setattr(tests, "socketpair", tcp_pair)  # noqa: B010
    return tests


SHIM = Shim(__file__, ours="sockguard.wrappers", expected={}, swap=swap, load=load, n_used=lambda: n_made[0])

if __name__ == "__main__":
    sys.exit(SHIM.main(sys.argv[1:], WAYS))
