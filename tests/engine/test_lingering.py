"""Closing without a reset: our FIN, a bounded drain, and close; on real sockets."""

import contextlib
import os
import socket
import sys

import pytest

from loopback import connect, state_of
from sockguard._core.policy import Policy
from sockguard._engine import lingering
from sockguard._engine.lingering import Lingering
from sockguard._kernel.natives import monotonic
from waiting import eventually

ANSWER = b"x" * 300_000


def closed_by(close, client, server):
    """Has an answer sent to a client that has sent more than was read, and closes; what arrives of it?"""
    client.settimeout(20)
    client.sendall(b"an upload that nobody reads")
    eventually(lambda: len(server.recv(100, socket.MSG_PEEK)) > 20)
    server.sendall(ANSWER)
    close(server)
    arrived = b""
    try:
        while chunk := client.recv(65536):
            arrived += chunk
    except ConnectionResetError:
        return arrived, "reset"
    return arrived, "eof"


def test_a_plain_close_loses_the_tail_of_the_answer():
    """This is what it is for: the kernel resets, and what the peer has not received is lost."""
    with connect() as c:
        c.client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        _, how = closed_by(socket.socket.close, c.client, c.server)
    assert how == "reset"


def test_the_whole_answer_arrives():
    """Our FIN comes behind it, and no reset; the descriptor is closed when the peer has closed."""
    taken = Lingering()
    with connect() as c:
        c.client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        assert closed_by(lambda s: taken.take(s, Policy()), c.client, c.server) == (ANSWER, "eof")
        assert c.server.fileno() == -1
        assert len(taken) == 1
        c.client.close()

        def is_over():
            taken.run(monotonic())
            return len(taken) == 0

        eventually(is_over)


def test_a_peer_that_stays_is_closed_after_the_time():
    """And not before."""
    taken = Lingering()
    with connect() as c:
        began = monotonic()
        taken.take(c.server, Policy(drain_timeout=2))
        taken.run(began + 1)
        assert len(taken) == 1
        taken.run(monotonic() + 3)
        assert len(taken) == 0
        with pytest.raises(ConnectionError):  # nobody is there any more: what comes now is answered by a reset
            eventually(lambda: c.client.send(b"more") and False)


def test_a_peer_that_sends_on_is_closed_after_the_bytes():
    """An upload is not seen to its end."""
    taken = Lingering()
    with connect() as c:
        c.client.setblocking(False)
        taken.take(c.server, Policy(drain_bytes=1000))

        def is_over():
            with contextlib.suppress(OSError):
                c.client.send(bytes(10_000))
            taken.run(monotonic())
            return len(taken) == 0

        eventually(is_over)


def test_without_a_time_it_is_a_plain_close():
    """`drain_timeout=None` turns it off."""
    taken = Lingering()
    with connect() as c:
        taken.take(c.server, Policy(drain_timeout=None))
        assert (len(taken), c.server.fileno()) == (0, -1)
        assert c.client.recv(1) == b""


def test_what_is_over_already_is_closed_at_once():
    """A connection that was reset has nothing to wait for; nor has a socket without a descriptor."""
    taken = Lingering()
    with connect() as c:
        c.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        c.client.close()
        eventually(lambda: state_of(c.server) == 7)
        taken.take(c.server, Policy())
        taken.take(c.server, Policy())
    assert len(taken) == 0


def test_the_number_is_the_guards_own_until_the_end():
    """Nothing else can get it meanwhile, and it is free afterwards."""
    taken = Lingering()
    with connect() as c:
        fd = c.server.fileno()
        taken.take(c.server, Policy())
        inode = os.fstat(fd).st_ino
        with socket.socket() as other:
            assert other.fileno() != fd
        taken.close()
        with pytest.raises(OSError, match="Bad file descriptor"):
            assert os.fstat(fd).st_ino != inode


def test_many_are_too_many(monkeypatch):
    """Beyond the limit a connection is closed as ever: descriptors are worth more."""
    monkeypatch.setattr(lingering, "MAX_LINGERING", 1)
    taken = Lingering()
    with connect() as first, connect() as second:
        taken.take(first.server, Policy())
        taken.take(second.server, Policy())
        assert len(taken) == 1
        taken.close()


@pytest.mark.skipif(sys.platform == "win32", reason="there is no such limit")
def test_few_descriptors_are_not_spent_on_it():
    """With a low limit no more than an eighth of it lingers: accept() needs the others."""
    import resource  # noqa: PLC0415 - Windows has none

    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = Lingering()
    with contextlib.ExitStack() as stack:
        pairs = [stack.enter_context(connect()) for _ in range(12)]
        resource.setrlimit(resource.RLIMIT_NOFILE, (80, before[1]))
        stack.callback(taken.close)
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, before)
        for each in pairs:
            taken.take(each.server, Policy())
        assert len(taken) == 10


def test_the_oldest_are_given_up_when_descriptors_are_needed():
    """As many as are asked for, or as there are."""
    taken = Lingering()
    with connect() as first, connect() as second, connect() as third:
        fds = [each.server.fileno() for each in (first, second, third)]
        for each in (first, second, third):
            taken.take(each.server, Policy())
        taken.give_up(2)
        assert len(taken) == 1
        for fd in fds[:2]:
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.fstat(fd)
        assert os.fstat(fds[2])
        taken.give_up(9)
        assert len(taken) == 0
