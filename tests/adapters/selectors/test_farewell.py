"""How a connection of a selector is let go of: by its owner, and for the peer in any case."""

import os
from selectors import EVENT_READ, SelectorKey

import pytest

from loopback import connect
from sockguard._kernel.one_socket import read_cookie
from sockguard.adapters.selectors.farewell import release


@pytest.fixture
def both():
    with connect() as connection:
        yield connection.client, connection.server


def key_of(fileobj, sock) -> SelectorKey:
    return SelectorKey(fileobj, sock.fileno(), EVENT_READ, None)


def test_a_socket_is_closed(both):
    """Its descriptor is free, and the peer has its end, also where somebody else holds the connection too."""
    peer, ours = both
    double = ours.dup()
    assert release(key_of(ours, ours), read_cookie(ours))
    assert ours.fileno() == -1 and peer.recv(10) == b""
    double.close()


def test_a_socket_of_which_a_file_is_open_is_shut_down(both):
    """Python closes the descriptor when the file is closed; until then, the connection is over."""
    peer, ours = both
    with ours.makefile("rb") as file:
        assert not release(key_of(ours, ours), read_cookie(ours))
        assert peer.recv(10) == b"" and ours.fileno() >= 0
        assert file.read() == b""


def test_a_number_is_shut_down(both):
    """And stays open, as nobody knows whose it is."""
    peer, ours = both
    assert not release(key_of(ours.fileno(), ours), read_cookie(ours))
    assert peer.recv(10) == b"" and os.fstat(ours.fileno())


def test_a_number_that_is_another_connection_by_now_is_left_alone(both):
    """The cookie tells."""
    peer, ours = both
    assert release(key_of(ours.fileno(), ours), read_cookie(ours) + 1)
    assert release(key_of(ours.fileno(), ours), None)
    ours.send(b"alive")
    assert peer.recv(10) == b"alive"


class Careless:
    """Has a close() that closes nothing."""

    def close(self) -> None:
        self.was_called = True


def test_an_object_whose_close_does_nothing_is_shut_down(both):
    """The peer has its end whatever the program's own class does."""
    peer, ours = both
    owner = Careless()
    assert not release(key_of(owner, ours), read_cookie(ours))
    assert owner.was_called and peer.recv(10) == b""
