"""What a handler with a blocking socket does wrong, by the word in the connection's first line.

The caller closes the socket when `serve` returns, unless it is in KEPT; nobody closes it
when `serve` raises. Used by threads.py, threading_tcp.py, forking_tcp.py and greenlets.py.
"""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable

import common

__all__ = ["one_process_each", "outside", "serve"]

one_process_each = [False]
"""True in a forking server, where a process, and all that it holds, ends with its handler."""
outside: list[Callable[[Callable[[float], None], float], object]] = [lambda function, number: function(number)]
"""How work is given to a native thread while the handler waits; in a thread it is just called."""


def serve(sock: socket.socket) -> None:
    """Handles one connection as its first line tells."""
    line = b""
    while not line.endswith(b"\n"):
        byte = sock.recv(1)
        if not byte:
            return
        line += byte
    word, numbers = common.talk(line)
    sock.sendall(b"ok\n")
    WORDS[word](sock, *numbers)


def drain(sock: socket.socket) -> int:
    """Reads until the peer has closed; gives the number of bytes."""
    return sum(map(len, iter(lambda: sock.recv(65536), b"")))


def park() -> None:
    """Waits for something that never comes, as on a queue."""
    never = threading.Event()
    common.OPEN.add(never)  # lest a greenlet that nobody can wake is collected
    never.wait()


def end_of_handler() -> None:
    """Keeps the process of a forking server, else its end would tidy up after us."""
    if one_process_each[0]:
        park()


def echo(sock: socket.socket) -> None:
    """Does everything right."""
    for data in iter(lambda: sock.recv(65536), b""):
        sock.sendall(data)


def ignore(sock: socket.socket) -> None:
    """Reads the end of the stream and goes on waiting for something else."""
    drain(sock)
    park()


def pause(sock: socket.socket) -> None:
    """Never reads again."""
    park()


def late(sock: socket.socket, after: float) -> None:
    """Is busy for some seconds, and then reads all that came meanwhile."""
    time.sleep(after)
    common.note(f"read {drain(sock)}")
    with contextlib.suppress(OSError):
        sock.sendall(b"done")


def stream(sock: socket.socket, n: float, every: float) -> None:
    """Sends a long answer slowly."""
    for number in range(int(n)):
        sock.sendall(common.chunk(number))
        time.sleep(every)


def answer(sock: socket.socket, after: float) -> None:
    """Reads the whole question, works on it in silence, answers."""
    drain(sock)
    time.sleep(after)
    sock.sendall(b"late answer")


def flood(sock: socket.socket, n: float) -> None:
    """Sends as fast as it goes."""
    for number in range(int(n)):
        sock.sendall(common.chunk(number))


def block(sock: socket.socket, seconds: float) -> None:
    """Stops the whole thread, and with it an event loop."""
    common.native["sleep"](seconds)
    drain(sock)


def thread(sock: socket.socket) -> None:
    """Waits for a native thread that hangs."""
    outside[0](common.native["sleep"], 3600)


def raises(sock: socket.socket) -> None:
    """Fails on the way to close()."""
    drain(sock)
    message = "the handler fails on the way to close()"
    raise RuntimeError(message)


def endless(sock: socket.socket) -> None:
    """Works for ever."""
    while True:
        time.sleep(0.05)


def keep(sock: socket.socket) -> None:
    """Returns, and leaves the connection in a set."""
    common.KEPT.add(sock)


def fork(sock: socket.socket) -> None:
    """Starts a child, which inherits the connection; then closes it."""
    common.fork_that_keeps()
    sock.close()
    end_of_handler()


def dup(sock: socket.socket) -> None:
    """Keeps a duplicate as a bare number, and closes properly."""
    common.FDS.append(os.dup(sock.fileno()))
    drain(sock)
    sock.close()
    end_of_handler()


def detach(sock: socket.socket) -> None:
    """Moves the descriptor to another object, which is kept."""
    common.new_owner(sock.detach())
    end_of_handler()


def hold(sock: socket.socket, seconds: float) -> None:
    """Closes some time after the peer."""
    drain(sock)
    time.sleep(seconds)


def keepalive(sock: socket.socket) -> None:
    """Ignores the end of the stream on a connection that the kernel probes."""
    common.probe_often(sock.fileno())
    ignore(sock)


WORDS: dict[str, Callable[..., None]] = {
    function.__name__: function
    for function in (
        *(echo, ignore, pause, late, stream, answer, flood, block, thread),
        *(raises, endless, keep, fork, dup, detach, hold, keepalive),
    )
}
