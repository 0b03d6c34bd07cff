"""What one descriptor tells of its socket, in each state that a leak can be in."""

import os
import socket
import types

import pytest

from loopback import connect, inode_of, listen, reset, state_of, vanished_peer
from sockguard._core.facts import Address, TcpState
from sockguard._kernel.inet_diag import open_diag, read_sockets
from sockguard._kernel.one_socket import find_cookie, read_cookie, read_facts
from waiting import eventually

FAMILIES = pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])


@FAMILIES
def test_facts_agree_with_the_table(family: socket.AddressFamily) -> None:
    """For a listed socket the descriptor tells the same as netlink, but for what only a table knows."""
    with vanished_peer(family, sent=b"hello") as connection, open_diag() as diag:
        (row,) = (r for r in read_sockets(diag, [8], with_info=True) if r.inode == inode_of(connection.server))
        facts = read_facts(connection.server)
        assert facts._replace(info=None) == row._replace(info=None, interface=0)
        assert facts.info.last_ack_recv >= row.info.last_ack_recv
        assert (facts.unread, facts.uid, facts.netns) == (5, os.getuid(), 0)
        assert read_facts(connection.server, netns=7).netns == 7


@pytest.mark.parametrize(("sent", "queue"), [(b"", 1), (b"x", 2), (b"hello", 6)])
def test_fin_counts_as_one_in_close_wait(sent: bytes, queue: int) -> None:
    """As in the kernel's tables; FIONREAD alone would not count it."""
    with vanished_peer(sent=sent) as connection:
        facts = read_facts(connection.server)
        assert (facts.state, facts.recv_queue, facts.unread) == (TcpState.CLOSE_WAIT, queue, len(sent))


@FAMILIES
def test_dead_connection_is_told_with_both_ends(family: socket.AddressFamily) -> None:
    """After a reset as before it, though getpeername() tells no peer any more."""
    with connect(family) as connection:
        local, remote = (Address(*end.getsockname()[:2]) for end in (connection.server, connection.client))
        reset(connection.client)
        eventually(lambda: state_of(connection.server) == 7)
        facts = read_facts(connection.server)
        assert (facts.state, facts.local, facts.remote, facts.recv_queue) == (TcpState.CLOSE, local, remote, 0)
        assert (facts.inode, facts.cookie) == (inode_of(connection.server), read_cookie(connection.server))


def test_established_connection_is_told_as_such() -> None:
    """It is told, for whoever borrows it to see that it is no leak."""
    with connect() as connection:
        connection.client.sendall(b"hello")
        eventually(lambda: read_facts(connection.server).recv_queue == 5)
        assert read_facts(connection.server).state == TcpState.ESTABLISHED


def test_ipv4_mapped_addresses_are_told_as_the_kernel_keeps_them() -> None:
    """An IPv4 client of an IPv6 listener has an address of the form ::ffff:127.0.0.1."""
    with listen(socket.AF_INET6, "::") as listener:
        listener_port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", listener_port)), listener.accept()[0] as server:
            facts = read_facts(server)
            assert facts.local == Address("::ffff:127.0.0.1", listener_port)
            assert facts.local.unmapped == Address("127.0.0.1", listener_port)


@FAMILIES
def test_sockets_that_never_were_connected_are_none(family: socket.AddressFamily) -> None:
    """A fresh, a bound and a refused socket are in the same state as a dead one, and are no leak."""
    with (
        socket.socket(family) as fresh,
        socket.socket(family) as bound,
        socket.socket(family) as refused,
        listen(family) as other,
    ):
        bound.bind((other.getsockname()[0], 0))
        assert refused.connect_ex(bound.getsockname()[:2]) == 111
        assert [state_of(sock) for sock in (fresh, bound, refused)] == [7, 7, 7]
        assert [read_facts(sock) for sock in (fresh, bound, refused)] == [None, None, None]


def test_listener_is_none_in_use_and_after_shutdown() -> None:
    """A listener took part in no connection itself, not even once it was shut down and is in state CLOSE."""
    with connect() as connection:
        assert read_facts(connection.listener) is None
        connection.listener.shutdown(socket.SHUT_RDWR)
        assert state_of(connection.listener) == 7
        assert read_facts(connection.listener) is None


def test_sockets_of_other_kinds_are_none() -> None:
    """UDP and Unix sockets, connected or not, are no TCP connections."""
    one, other = socket.socketpair()
    with one, other, socket.socket(type=socket.SOCK_DGRAM) as udp:
        udp.connect(("127.0.0.1", 9))
        assert [read_facts(sock) for sock in (one, other, udp)] == [None, None, None]


def test_closed_descriptor_is_an_error() -> None:
    """It is not mistaken for a socket of another kind."""
    with connect() as connection:
        client, number = connection.client, connection.client.fileno()
        detached = socket.socket(fileno=os.dup(number))
        os.close(detached.fileno())
        try:
            with pytest.raises(OSError, match="Bad file descriptor"):
                read_cookie(detached)
        finally:
            detached.detach()
        assert client.fileno() == number


def test_cookie_is_the_sockets_own() -> None:
    """Every socket has another one, and duplicates have the same; it stays as long as the socket lives."""
    with connect() as connection, connection.server.dup() as duplicate:
        cookies = [read_cookie(sock) for sock in connection]
        assert len(set(cookies)) == 3
        assert read_cookie(duplicate) == read_cookie(connection.server) == cookies[2] > 0


def test_refused_connect_is_none_whichever_way_it_was_refused() -> None:
    """The reset that answers a non-blocking connect() counts as a packet, but never was there a connection."""
    with socket.socket() as bound, socket.socket() as client:
        bound.bind(("127.0.0.1", 0))
        client.setblocking(False)
        client.connect_ex(bound.getsockname())
        eventually(lambda: state_of(client) == TcpState.CLOSE)
        assert read_facts(client) is None


def test_keepalive_is_seen_without_a_table() -> None:
    """Its answered probes may have renewed the age, which must not be called exact."""
    with vanished_peer() as connection:
        assert not read_facts(connection.server).is_probed
        connection.server.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        assert read_facts(connection.server).is_probed


@pytest.mark.parametrize("owner", [None, object(), types.SimpleNamespace(getsockopt=len)])
def test_an_owner_that_is_no_socket_has_no_cookie(owner):
    """Whatever it is that was announced."""
    assert find_cookie(owner) is None


def test_a_closed_owner_has_no_cookie():
    """And an open one has the socket's."""
    with socket.socket() as owner:
        assert find_cookie(owner) == read_cookie(owner)
    assert find_cookie(owner) is None
