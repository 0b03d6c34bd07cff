"""The bytes that wait to be read, counted without reading them."""

import contextlib
import os
import socket

import pytest

from elsewhere import on_each_system, run_elsewhere
from loopback import connect
from sockguard._kernel.unread import count_unread
from waiting import eventually


@contextlib.contextmanager
def pair(family):
    """Gives both ends of a connection."""
    if family == socket.AF_UNIX:
        ours, peer = socket.socketpair()
        with ours, peer:
            yield ours, peer
    else:
        with connect(family) as c:
            yield c.server, c.client


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6, socket.AF_UNIX])
def test_it_counts_what_waits_and_takes_nothing(family):
    """The end of the stream is no byte."""
    with pair(family) as (ours, peer):
        assert count_unread(ours.fileno()) == 0
        peer.sendall(b"precious")
        peer.shutdown(socket.SHUT_WR)
        assert eventually(lambda: count_unread(ours.fileno()) == 8)
        assert ours.recv(3) == b"pre"
        assert count_unread(ours.fileno()) == 5
        assert ours.recv(99) == b"cious"
        assert count_unread(ours.fileno()) == 0


def test_what_is_closed_is_an_error():
    """As of any call of the system."""
    reader, writer = os.pipe()
    os.close(writer)
    os.close(reader)
    with pytest.raises(OSError, match="Bad file descriptor"):
        count_unread(reader)


@on_each_system
def test_other_systems_tell_the_same(system):
    """Windows by a call of its own."""
    done = run_elsewhere(
        system,
        "from sockguard._kernel.unread import count_unread\n"
        "b.sendall(b'precious')\n"
        "print(count_unread(a.fileno()), count_unread(b.fileno()))",
        first="import socket\na, b = socket.socketpair()\n",
    )
    assert (done.stdout, done.stderr) == ("8 0\n", "")
