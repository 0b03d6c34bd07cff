"""The clients of the guard's benchmarks. They block: that costs least, so the server is what is measured.

They take what is there, connection by connection, and wait where nothing is there yet; on a shared CPU
the server then gets a row of messages at once, as a busy server does.
"""

import contextlib
import signal
import socket
import time
from collections import deque
from collections.abc import Iterator, Sequence

__all__ = ["churn", "connections", "ping_pong"]

PATIENCE = 30
"""Seconds after which a server that does not answer stops the benchmark."""
RESET = b"\1\0\0\0\0\0\0\0"
Address = tuple[str, int]


@contextlib.contextmanager
def _patience() -> Iterator[None]:
    """Raises TimeoutError after a while; one timer for all calls, as socket timeouts cost a system call each."""

    def give_up(*_: object) -> None:
        msg = f"a server has not answered within {PATIENCE} s"
        raise TimeoutError(msg)

    signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, PATIENCE)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


@contextlib.contextmanager
def connections(address: Address, n_connections: int) -> Iterator[list[socket.socket]]:
    """Holds connections; ends them by reset, so that no TIME_WAIT is left for the next measurement."""
    socks: list[socket.socket] = []
    try:
        with _patience():
            for _ in range(n_connections):
                socks.append(socket.create_connection(address))
                socks[-1].setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield socks
    finally:
        for sock in socks:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            sock.close()


def ping_pong(socks: Sequence[socket.socket], payload: bytes, seconds: float) -> tuple[int, float]:
    """Keeps one message under way on each connection; gives the messages echoed and the seconds they took."""
    size = len(payload)
    buffer = bytearray(size)
    n_sweeps = 0
    with _patience():
        started = time.perf_counter()
        deadline = started + seconds
        for sock in socks:
            sock.sendall(payload)
        while time.perf_counter() < deadline:
            for sock in socks:
                _whole(sock.recv_into(buffer, size, socket.MSG_WAITALL), size)
                sock.sendall(payload)
            n_sweeps += 1
        for sock in socks:
            _whole(sock.recv_into(buffer, size, socket.MSG_WAITALL), size)
        elapsed = time.perf_counter() - started
    assert buffer == payload
    return (n_sweeps + 1) * len(socks), elapsed


def _whole(n_received: int, size: int) -> None:
    if n_received != size:
        msg = f"the server hung up after {n_received} of {size} bytes"
        raise ConnectionError(msg)


def churn(address: Address, payload: bytes, seconds: float, n_at_once: int) -> tuple[int, float]:
    """Makes connections of one message each; gives their number and the seconds they took."""
    n_done = 0
    with _patience():
        started = time.perf_counter()
        deadline = started + seconds
        under_way = deque(_say(address, payload) for _ in range(n_at_once))
        while under_way:
            _hear(under_way.popleft(), payload)
            n_done += 1
            if time.perf_counter() < deadline:
                under_way.append(_say(address, payload))
        elapsed = time.perf_counter() - started
    return n_done, elapsed


def _say(address: Address, payload: bytes) -> socket.socket:
    sock = socket.socket()
    sock.connect(address)
    sock.sendall(payload)
    return sock


def _hear(sock: socket.socket, payload: bytes) -> None:
    assert sock.recv(len(payload), socket.MSG_WAITALL) == payload
    sock.close()
