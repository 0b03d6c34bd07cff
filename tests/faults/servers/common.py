"""What the servers of the fault matrix share. Those that do not know sockguard have `sockguard run` put before them.

The others, guarded_*.py, are the same servers, opened by the wrappers of sockguard: they set `make_listener` or
what their kind of server has in its place, once the options are read.

Every connection says in its first line what the program shall do wrong with it, as
`late 3`; the program answers `ok` and does that. So one server has healthy and sick
connections side by side, as in life. The words are explained in blocking.py.

SIGUSR1 sticks the main thread, which is the one that accepts, for some seconds.
"""

import argparse
import ctypes
import errno
import logging
import os
import signal
import socket
import ssl
import sys
import time
from collections.abc import Callable
from typing import Any

__all__ = [
    "ERRORS",
    "FDS",
    "KEPT",
    "OPEN",
    "STUCK_FOR",
    "chunk",
    "die_with_parent",
    "fork_that_keeps",
    "is_full",
    "listen",
    "make_listener",
    "native",
    "new_owner",
    "note",
    "on_start",
    "probe_often",
    "start",
    "talk",
    "tls_context",
]

STUCK_FOR = 7.0
"""Seconds that SIGUSR1 keeps the acceptor from its work."""

PR_SET_PDEATHSIG = 1

OPEN: set[object] = set()
"""The connections that the server believes to be open, as every server knows them; else they might be collected."""
KEPT: set[object] = set()
"""What the program keeps although it has done with it: the classic of a forgotten registry."""
FDS: list[int] = []
"""Descriptors kept as bare numbers, as a C library would."""
ERRORS: list[object] = []
"""Exceptions with their tracebacks, as an error tracker keeps them: the frames hold the sockets."""

on_start: list[Callable[[argparse.Namespace], object]] = []
"""Called with the options before anything is opened."""
make_listener: list[Callable[[Any, argparse.Namespace], socket.socket]] = [
    lambda address, options: socket.create_server(address, backlog=options.backlog)
]

native: dict[str, Callable[[float], None]] = {"sleep": time.sleep}
"""The call that stops a whole thread. Programs that patch `time` put the real one here."""


def start(words: list[str] | None = None) -> argparse.Namespace:
    """Reads the options, and makes the process one that ends with its parent and can be stuck by a signal."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--tls", metavar="PEM", help="speak TLS with this key and certificate")
    parser.add_argument("--backlog", type=int, default=128)
    parser.add_argument("--children", type=int, default=40, help="the most processes of a forking server")
    parser.add_argument("--policy", nargs="*", default=[], metavar="FIELD=VALUE", help="of the guarded servers")
    options = parser.parse_args(words)
    die_with_parent()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
    signal.signal(signal.SIGUSR1, lambda *_: native["sleep"](STUCK_FOR))
    for prepare in on_start:
        prepare(options)
    return options


def die_with_parent() -> None:
    """Asks the kernel to kill us when the process that started us ends, see PR_SET_PDEATHSIG(2const)."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def listen(options: argparse.Namespace) -> socket.socket:
    """Opens the listener and tells its port."""
    listener = make_listener[0](("127.0.0.1", 0), options)
    note(f"port {listener.getsockname()[1]}")
    return listener


def note(text: str) -> None:
    """Tells the judge something, on standard output."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def tls_context(options: argparse.Namespace) -> ssl.SSLContext | None:
    """Makes the context of a server that speaks TLS, if it shall."""
    if not options.tls:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(options.tls)
    return context


def chunk(number: float) -> bytes:
    """Gives the n-th 1000 bytes of a long answer; each can be told from its neighbours."""
    return b"%08d" % number * 125


def talk(words: bytes) -> tuple[str, list[float]]:
    """Splits the first line into the word and its numbers."""
    word, *numbers = words.decode().split() or ["echo"]
    return word, [float(number) for number in numbers]


def fork_that_keeps() -> int:
    """Forks a child that keeps all descriptors and does nothing, for as long as its parent lives; gives its pid.

    PR_SET_PDEATHSIG would end it with the *thread* that forked it.
    """
    parent = os.getpid()
    child = os.fork()
    if not child:
        while os.getppid() == parent:
            native["sleep"](0.2)
        os._exit(0)
    return child


def new_owner(fd: int) -> None:
    """Gives the connection a new Python object and keeps that: `detach()` and `socket(fileno=)`."""
    KEPT.add(socket.socket(fileno=fd))


def probe_often(fd: int) -> None:
    """Switches keepalive on, as the program's own setting: 1 s, 1 s, twice."""
    sock = socket.socket(fileno=os.dup(fd))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in ((socket.TCP_KEEPIDLE, 1), (socket.TCP_KEEPINTVL, 1), (socket.TCP_KEEPCNT, 2)):
        sock.setsockopt(socket.IPPROTO_TCP, option, value)
    sock.close()


def is_full(error: BaseException) -> bool:
    """Tells whether accept() failed for want of descriptors."""
    return isinstance(error, OSError) and error.errno in {errno.EMFILE, errno.ENFILE}
