"""Which descriptors have hung up, and how they stand; nothing is taken from anybody by the question."""

import os
import socket

import pytest

from loopback import connect, reset, vanished_peer
from sockguard._core.facts import TcpState
from sockguard._kernel.backend import KERNEL_KEEPS_BOOKS
from sockguard._kernel.hung_up import HungUp, find_hung_up, read_end, seen_through
from waiting import eventually


def found(*socks) -> dict[int, bool]:
    return dict(find_hung_up(sock.fileno() for sock in socks))


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_a_fin_is_found_and_nothing_else(family):
    """Of connections that are open, with and without unread bytes, none is found."""
    with connect(family) as well, connect(family) as unread, vanished_peer(family, sent=b"abc") as gone:
        unread.client.sendall(b"abc")
        assert found(well.server, unread.server, gone.server, gone.listener) == {gone.server.fileno(): False}
        assert gone.server.recv(10) == b"abc"


def test_a_reset_is_found_and_its_error_is_left():
    """The application still gets the error that the kernel has for it."""
    with connect() as connection:
        reset(connection.client)
        eventually(lambda: found(connection.server))
        assert found(connection.server) == {connection.server.fileno(): True}
        activity = read_end(connection.server, HungUp(connection.server.fileno(), is_both=True))
        if KERNEL_KEEPS_BOOKS:
            assert activity.state == TcpState.CLOSE
        with pytest.raises(ConnectionResetError):
            connection.server.recv(10)


def test_a_fin_as_it_stands():
    """Half closed, with what is unread; with the kernel's books, also whether the FIN was read."""
    with vanished_peer(sent=b"abc") as connection:
        hung_up = HungUp(connection.server.fileno(), is_both=False)
        assert read_end(connection.server, hung_up)[:1] == (TcpState.CLOSE_WAIT,)
        assert (read_end(connection.server, hung_up).unread, read_end(connection.server, hung_up).eof_unread) == (
            3,
            True,
        )
        while connection.server.recv(10):
            pass
        assert read_end(connection.server, hung_up).unread == 0
        assert read_end(connection.server, hung_up).eof_unread != KERNEL_KEEPS_BOOKS


def test_a_unix_connection():
    """Half closed after the peer's shutdown, and over after its close."""
    peer, ours = socket.socketpair()
    with peer, ours:
        peer.shutdown(socket.SHUT_WR)
        [hung_up] = find_hung_up([ours.fileno()])
        assert read_end(ours, hung_up).state == TcpState.CLOSE_WAIT
        peer.close()
        [hung_up] = find_hung_up([ours.fileno()])
        assert hung_up.is_both and read_end(ours, hung_up).state == TcpState.CLOSE


def test_what_is_no_connection_is_none():
    """A socket that never connected, one that was refused, datagrams: none of them has ended."""
    with socket.socket() as fresh, socket.socket() as refused, socket.socket(type=socket.SOCK_DGRAM) as datagrams:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            address = listener.getsockname()
        assert refused.connect_ex(address)
        for sock in (fresh, refused, datagrams, socket.socket(socket.AF_UNIX)):
            assert read_end(sock, HungUp(sock.fileno(), is_both=True)) is None
            sock.close()


def test_a_closed_number_is_found():
    """poll() tells of it; so does this."""
    reading, writing = os.pipe()
    os.close(writing)
    os.close(reading)
    assert [one.fd for one in find_hung_up([reading])] == [reading]


def test_somebody_elses_number_is_seen_through_and_let_go():
    """The object knows the socket, leaves its flags alone, and the number stays open, also after an error."""
    with connect() as connection:
        fd = connection.server.fileno()
        with seen_through(fd) as sock:
            assert sock.getsockname() == connection.server.getsockname()
            assert sock.family == connection.server.family
            assert os.get_blocking(fd)
        with pytest.raises(ZeroDivisionError), seen_through(fd):
            assert 1 / 0
        assert os.get_blocking(fd) and connection.client.send(b"x") and connection.server.recv(1) == b"x"


def test_what_is_no_socket_cannot_be_seen_through():
    """A pipe and a closed number raise OSError; the pipe stays open."""
    reading, writing = os.pipe()
    with pytest.raises(OSError, match="non-socket"), seen_through(reading):
        pass
    os.close(writing)
    os.close(reading)
    with pytest.raises(OSError, match="Bad file"), seen_through(reading):
        pass
