"""Whose connection it was, asked when getpeername() does not tell any more."""

import socket
import sys

import pytest

from loopback import connect, reset, state_of
from sockguard._core.facts import Address
from sockguard._kernel.peer_name import read_last_peer
from waiting import eventually

CLOSE = 7

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it is what Linux tells")


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_the_peer_is_known_after_a_reset(family):
    """The kernel keeps its address as long as there is the socket, though getpeername() says ENOTCONN."""
    with connect(family) as c:
        name = c.client.getsockname()
        reset(c.client)
        eventually(lambda: state_of(c.server) == CLOSE)
        with pytest.raises(OSError, match="not connected"):
            c.server.getpeername()
        assert read_last_peer(c.server) == Address(*name[:2])


def test_the_peer_of_a_connection_that_is_up_is_told_too():
    """As getpeername() tells it."""
    with connect() as c:
        assert read_last_peer(c.server) == Address(*c.server.getpeername())


def test_of_what_has_no_peer_none_is_told():
    """A socket that never connected, one that is closed, and one of another family."""
    with socket.socket() as never:
        assert read_last_peer(never) is None
    assert read_last_peer(never) is None
    for sock in socket.socketpair():
        with sock:
            assert read_last_peer(sock) is None


def test_an_answer_that_is_no_address_is_none(monkeypatch):
    """Where the number stands for something else, as on some machines, nothing is made of the answer."""
    monkeypatch.setattr("sockguard._kernel.peer_name.SO_PEERNAME", socket.SO_TYPE)
    with connect() as c:
        assert read_last_peer(c.server) is None
