"""Runs CPython's own tests with one of our wrappers in the place of the original: `swapped.py SWAP REGRTEST-ARGUMENTS`.

A swap is a function of this file that puts a wrapper under the original's name; `plain` puts nothing there.
"""

# ruff: noqa: PLC0415 - the plain side must not load what it does not swap, and the other in its own time

import importlib
import sys
from collections.abc import Callable


def plain() -> None:
    """Leaves all as it is."""


def socket() -> None:
    """Has every `socket.socket(...)` of the process be a GuardedSocket, and `socket.create_server` ours."""
    import socket as module

    from sockguard.wrappers import GuardedSocket, create_server

    create_server(("127.0.0.1", 0)).close()  # starts the guard's thread: some tests count threads, before and after
    vars(module).update(socket=GuardedSocket, create_server=create_server)


def socketserver() -> None:
    """Has every server of socketserver be guarded: the mix-in stands before `BaseServer`'s heirs."""
    import http.server
    import socketserver as module

    from sockguard.wrappers import GuardedServerMixin

    def guarded(original: type) -> type:
        name, parts = original.__name__, {"__module__": original.__module__, "__doc__": original.__doc__}
        return type(name, (GuardedServerMixin, original), parts)

    streams = ("TCPServer", "UnixStreamServer")
    for kind in ("", "Threading", "Forking"):
        for name in streams:
            if hasattr(module, kind + name):  # ForkingUnixStreamServer is of Python 3.12
                setattr(module, kind + name, guarded(getattr(module, kind + name)))
    for name in ("HTTPServer", "ThreadingHTTPServer"):
        setattr(http.server, name, guarded(getattr(http.server, name)))


SWAPS: dict[str, Callable[[], None]] = {swap.__name__: swap for swap in (plain, socket, socketserver)}

if __name__ == "__main__":
    SWAPS[sys.argv[1]]()
    sys.argv[1:] = sys.argv[2:]
    importlib.import_module("test.libregrtest.main").main()
