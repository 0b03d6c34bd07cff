"""Real TCP connections on the loopback interface, brought into a wanted state by verbs."""

import contextlib
import os
import socket
import struct
from collections.abc import Iterator
from typing import NamedTuple

from waiting import eventually

__all__ = ["Connection", "connect", "inode_of", "listen", "reset", "state_of", "vanished_peer"]

HOSTS = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}


class Connection(NamedTuple):
    """Both ends of one connection and the listener that it came through."""

    listener: socket.socket
    client: socket.socket
    server: socket.socket


def state_of(sock: socket.socket) -> int:
    """Tells the kernel's number of the TCP state: the first byte of TCP_INFO."""
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]


def inode_of(sock: socket.socket) -> int:
    """Tells the inode of a socket, as its /proc/PID/fd link does."""
    return os.fstat(sock.fileno()).st_ino


@contextlib.contextmanager
def listen(family: int = socket.AF_INET, host: str | None = None, backlog: int = 8) -> Iterator[socket.socket]:
    """Listens on a free port of the loopback interface."""
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.bind((host or HOSTS[family], 0))
        listener.listen(backlog)
        yield listener


@contextlib.contextmanager
def connect(family: int = socket.AF_INET) -> Iterator[Connection]:
    """Makes an established connection; all three sockets are closed at the end."""
    with listen(family) as listener, socket.create_connection(listener.getsockname()[:2]) as client:
        server, _ = listener.accept()
        with server:
            yield Connection(listener, client, server)


@contextlib.contextmanager
def vanished_peer(family: int = socket.AF_INET, *, sent: bytes = b"") -> Iterator[Connection]:
    """Makes a connection whose client has sent something and closed: `server` is in CLOSE_WAIT."""
    with connect(family) as connection:
        connection.client.sendall(sent)
        connection.client.close()
        eventually(lambda: state_of(connection.server) == 8)
        yield connection


def reset(sock: socket.socket) -> None:
    """Closes with a reset instead of a FIN."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()
