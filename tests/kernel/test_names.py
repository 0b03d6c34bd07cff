"""The addresses of a socket, of each family."""

import os
import socket

import pytest

from loopback import connect
from sockguard._core.facts import Address, Names
from sockguard._kernel.names import read_names


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_both_ends(family):
    """They are what both sides say, without flow and scope."""
    with connect(family) as connection:
        near, far = connection.server.getsockname()[:2], connection.server.getpeername()[:2]
        assert read_names(connection.server) == Names(Address(*near), Address(*far))


def test_an_ipv4_peer_of_an_ipv6_listener():
    """Its mapped address is told as the IPv4 address that it is."""
    with (
        socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as listener,
        socket.create_connection(("127.0.0.1", listener.getsockname()[1])) as client,
        listener.accept()[0] as server,
    ):
        assert read_names(server).remote == Address(*client.getsockname())


def test_a_peer_that_is_not_there():
    """Of a listener only one end is told; of a closed socket none."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert read_names(listener) == Names(Address(*listener.getsockname()), None)
    assert read_names(listener) == Names(None, None)


@pytest.mark.parametrize(
    ("bound", "told"),
    [("{}/a", "{}/a"), ("\0sockguard-names-{pid}", "@sockguard-names-{pid}")],
    ids=["path", "abstract"],
)
def test_unix(tmp_path, bound, told):
    """A path, or a name of Linux's abstract namespace as ss writes it; an end that has neither is not told."""
    bound, told = (text.format(tmp_path, pid=os.getpid()) for text in (bound, told))
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        listener.bind(bound)
        listener.listen()
        client.connect(bound)
        assert read_names(client) == Names(None, told)
