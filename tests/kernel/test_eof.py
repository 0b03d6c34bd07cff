"""An EOF that waits to be read, told from one that was read; against the kernel's own table."""

import errno
import os
import random
import socket

import pytest

from loopback import connect, state_of, vanished_peer
from sockguard._kernel.eof import SO_MEMINFO, is_eof_unread
from sockguard._kernel.inet_diag import open_diag, read_sockets
from sockguard._kernel.one_socket import read_cookie
from waiting import eventually

CLOSE_WAIT = 8
FAMILIES = [socket.AF_INET, socket.AF_INET6]


@pytest.mark.parametrize("family", FAMILIES)
def test_fin_is_unread_until_it_is_read(family: socket.AddressFamily) -> None:
    """A look does not read it, a peek neither; recv() does."""
    with vanished_peer(family) as connection:
        assert connection.server.recv(1, socket.MSG_PEEK) == b""
        assert is_eof_unread(connection.server, CLOSE_WAIT)
        assert connection.server.recv(1) == b""
        assert not is_eof_unread(connection.server, CLOSE_WAIT)


def test_open_connection_has_no_eof() -> None:
    """Whatever waits to be read."""
    with connect() as connection:
        connection.client.sendall(b"x")
        eventually(lambda: connection.server.recv(1, socket.MSG_PEEK))
        assert not is_eof_unread(connection.server, state_of(connection.server))


def rows_receive_queue(sock: socket.socket) -> int:
    with open_diag() as diag:
        (queue,) = [row.recv_queue for row in read_sockets(diag, [CLOSE_WAIT]) if row.cookie == read_cookie(sock)]
    return queue


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("n_sent", [0, 1, 1000, 60_000, 200_000])
@pytest.mark.parametrize("is_late", [False, True], ids=["FIN with the data", "FIN after the data"])
def test_same_is_told_as_by_the_kernels_table(family: socket.AddressFamily, n_sent: int, is_late: bool) -> None:
    """Its receive queue counts the FIN. Pins the kernel fact that the FIN's packet stays charged until it is read."""
    randomness = random.Random(n_sent)
    with connect(family) as connection:
        connection.server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 500_000)
        connection.client.sendall(bytes(n_sent))
        if is_late:
            eventually(
                lambda: len(connection.server.recv(n_sent + 1, socket.MSG_PEEK | socket.MSG_DONTWAIT)) == n_sent
            ) if n_sent else None
        connection.client.close()
        eventually(lambda: state_of(connection.server) == CLOSE_WAIT)
        while True:
            assert is_eof_unread(connection.server, CLOSE_WAIT) == (rows_receive_queue(connection.server) > 0)
            if not connection.server.recv(randomness.choice([1, 999, n_sent // 2 + 1])):
                break
        assert not is_eof_unread(connection.server, CLOSE_WAIT)
        assert rows_receive_queue(connection.server) == 0


def test_reading_just_the_bytes_leaves_a_fin_that_came_apart() -> None:
    """The owner has all data, and does not know yet that it was all."""
    with connect() as connection:
        connection.client.sendall(b"abc")
        assert connection.server.recv(3) == b"abc"
        connection.client.close()
        eventually(lambda: state_of(connection.server) == CLOSE_WAIT)
        assert is_eof_unread(connection.server, CLOSE_WAIT)


def test_closed_descriptor_is_an_error() -> None:
    """It is not taken for one whose EOF was read."""
    with vanished_peer() as connection:
        connection.server.close()
        with pytest.raises(OSError, match="Bad file descriptor"):
            is_eof_unread(connection.server, CLOSE_WAIT)


def test_kernel_that_does_not_know_the_option() -> None:
    """Before Linux 4.12, and in sandboxes that answer for the kernel: it cannot be told."""

    class Old:
        def getsockopt(self, _level: int, name: int, _length: int) -> bytes:
            assert name == SO_MEMINFO
            raise OSError(errno.ENOPROTOOPT, os.strerror(errno.ENOPROTOOPT))

    assert not is_eof_unread(Old(), CLOSE_WAIT)  # type: ignore[arg-type]
