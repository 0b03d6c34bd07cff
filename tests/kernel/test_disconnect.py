"""A reset without closing: the peer learns of it, and the owner keeps its descriptor."""

import ctypes
import errno
import os
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

from loopback import connect, state_of, vanished_peer
from sockguard._kernel.disconnect import reset
from waiting import eventually

CLOSE = 7
FAMILIES = [socket.AF_INET, socket.AF_INET6]


@pytest.mark.parametrize("family", FAMILIES)
def test_peer_gets_a_reset(family: socket.AddressFamily) -> None:
    """It fails at its next call, instead of reading an end of file."""
    with connect(family) as connection:
        reset(connection.server)
        assert state_of(connection.server) == CLOSE
        eventually(lambda: state_of(connection.client) == CLOSE)
        with pytest.raises(ConnectionResetError):
            connection.client.recv(1)


def test_owner_keeps_its_descriptor() -> None:
    """It is open as before; its next call fails, and what was unread is lost, which is what a reset is."""
    with vanished_peer(sent=b"unread") as connection:
        before = os.fstat(connection.server.fileno()).st_ino
        reset(connection.server)
        assert os.fstat(connection.server.fileno()).st_ino == before
        with pytest.raises(ConnectionResetError):
            connection.server.recv(9)
        with pytest.raises(OSError, match="not connected"):
            connection.server.recv(9)


def test_reset_through_a_duplicate_ends_the_connection_for_all() -> None:
    """The owner did not have to do anything."""
    with connect() as connection:
        with connection.server.dup() as duplicate:
            reset(duplicate)
        assert state_of(connection.server) == CLOSE
        eventually(lambda: state_of(connection.client) == CLOSE)


def test_unsent_data_is_thrown_away() -> None:
    """The peer does not get what it has not acknowledged."""
    with connect() as connection:
        connection.server.setblocking(False)
        try:
            while True:
                connection.server.send(bytes(65536))
        except BlockingIOError:
            reset(connection.server)
        with pytest.raises(ConnectionResetError):
            list(iter(lambda: connection.client.recv(1 << 20), b""))


def test_thread_that_waits_for_it_wakes_up() -> None:
    """A reset from outside ends a blocking recv(), with EPIPE (Linux 6.18), or ECONNRESET if it begins only then."""
    with connect() as connection, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(connection.server.recv, 1)
        eventually(waiting.running)
        reset(connection.server)
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            waiting.result(5.0)


def test_kernel_that_refuses_while_a_thread_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Linux 6.4 and 6.5: the connection is ended all the same, by a FIN."""

    class Libc:
        def connect(self, *_: object) -> int:
            ctypes.set_errno(errno.EBUSY)
            return -1

    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: Libc())
    with connect() as connection:
        reset(connection.server)
        assert connection.client.recv(1) == b""


def test_closed_descriptor_is_an_error() -> None:
    """By its number and text."""
    with connect() as connection:
        connection.server.close()
        with pytest.raises(OSError, match="Bad file descriptor"):
            reset(connection.server)
