"""The fixture `socket_leak_guard`: asks in the middle of a test, and takes nothing from the end of it."""

import socket
import threading

import pytest

from loopback import inode_of
from sockguard.pytest_plugin.guard import SocketLeakGuard
from sockguard.testing import SocketLeakError, begin_tracking, end_tracking, no_socket_leaks


@pytest.fixture
def guard():
    """One that is in use."""
    with SocketLeakGuard() as made:
        yield made


def inodes(leaks):
    """Which sockets they are about."""
    return [leak.inode for leak in leaks]


def test_leaked(guard):
    """What is open since the beginning, or since a snapshot; asked again, the same."""
    assert guard.leaked() == []
    with socket.socket() as first:
        before = guard.snapshot()
        with socket.socket() as second:
            for _ in range(2):
                assert sorted(inodes(guard.leaked())) == sorted(map(inode_of, (first, second)))
                assert inodes(guard.leaked(before)) == [inode_of(second)]
    assert guard.leaked() == []


def test_a_snapshot_of_what_has_gone(guard):
    """Inodes that are open no more are no matter."""
    assert guard.leaked({-1, *guard.snapshot()}) == []


def test_grace(guard):
    """What is closed in time is not listed."""
    sock = socket.socket()
    threading.Timer(0.05, sock.close).start()
    assert guard.leaked(grace=20.0) == []


def test_assert_clean(guard):
    """It raises what a test at its end would."""
    guard.assert_clean()
    with socket.socket(), pytest.raises(SocketLeakError, match=r"1 socket left open, .* by the test so far") as caught:
        guard.assert_clean(grace=0)
    assert len(caught.value.leaks) == 1


def test_ignore_current(guard):
    """What is open now is wanted from now on."""
    with socket.socket():
        guard.ignore_current()
        assert guard.leaked() == []
        with socket.socket() as later:
            assert inodes(guard.leaked()) == [inode_of(later)]


def test_what_it_tells_of_is_charged_all_the_same():
    """It only asks: who left it open is charged at his end."""
    kept = []
    with pytest.raises(SocketLeakError), no_socket_leaks(grace=0), SocketLeakGuard() as guard:  # noqa: PT012 - the block
        kept.append(socket.socket())
        assert len(guard.leaked()) == 1
    kept[0].close()


def test_it_gives_the_books_back():
    """Also if the test fails: afterwards nothing is wrapped."""
    before = dict(vars(socket.socket))
    with pytest.raises(ZeroDivisionError), SocketLeakGuard():  # noqa: PT012 - that is the test
        assert "__del__" in vars(socket.socket)
        raise ZeroDivisionError
    assert dict(vars(socket.socket)) == before


def test_beside_others_that_track():
    """The books of one run are shared."""
    tracking = begin_tracking()
    try:
        with SocketLeakGuard() as guard:
            assert guard.snapshot() == set(tracking.ledger.look())
        assert "__del__" in vars(socket.socket)
    finally:
        end_tracking()
