"""Who hung up: each told once, by a number that may be another's by now; and the set after forks and daemons."""

import contextlib
import gc
import os
import select
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from children import start_child
from loopback import connect, reset, vanished_peer
from sockguard._kernel import peer_close
from sockguard._kernel.peer_close import PeerCloseWatch
from waiting import eventually

FAMILIES = [socket.AF_INET, socket.AF_INET6]


@pytest.fixture
def watch() -> Iterator[PeerCloseWatch]:
    with contextlib.closing(PeerCloseWatch()) as watch:
        yield watch


def epoll_number(watch: PeerCloseWatch) -> int:
    return watch._epoll.fileno()  # noqa: SLF001 - a program closes it by its number


# Who is told of


def test_open_connection_is_not_told_of(watch: PeerCloseWatch) -> None:
    """Whatever it sends."""
    with connect() as connection:
        assert watch.add(connection.server.fileno())
        connection.client.sendall(b"hello")
        assert connection.server.recv(1, socket.MSG_PEEK) == b"h"
        assert watch.drain() == []


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("end", ["FIN", "half-close", "RST", "unread, and FIN"])
def test_hang_up_is_told_once(watch: PeerCloseWatch, family: socket.AddressFamily, end: str) -> None:
    """Although nobody reads, and although the program leaves the connection open."""
    with connect(family) as connection:
        fd = connection.server.fileno()
        assert watch.add(fd)
        if end == "RST":
            reset(connection.client)
        else:
            connection.client.sendall(b"unread" if end.startswith("unread") else b"")
            connection.client.shutdown(socket.SHUT_WR)
        assert eventually(watch.drain) == [fd]
        assert watch.drain() == []


def test_one_that_had_hung_up_before_is_told_of(watch: PeerCloseWatch) -> None:
    """It is not missed, whatever comes first."""
    with vanished_peer() as connection:
        watch.add(connection.server.fileno())
        assert watch.drain() == [connection.server.fileno()]


def test_adding_again_tells_again(watch: PeerCloseWatch) -> None:
    """Whoever is put in twice is watched anew."""
    with vanished_peer() as connection:
        fd = connection.server.fileno()
        told = []
        for _ in range(2):
            assert watch.add(fd)
            told.append(watch.drain())
        assert told == [[fd], [fd]]


def test_reset_after_the_fin_is_told_too(watch: PeerCloseWatch) -> None:
    """A connection that was half-closed and is dead now has news."""
    with connect() as connection:
        watch.add(connection.server.fileno())
        connection.client.shutdown(socket.SHUT_WR)
        assert eventually(watch.drain) == [connection.server.fileno()]
        reset(connection.client)
        assert eventually(watch.drain) == [connection.server.fileno()]


def test_our_own_shutdown_is_told_as_well(watch: PeerCloseWatch) -> None:
    """SHUT_RD by the program looks like a hang-up of its peer: what is told is a hint."""
    with connect() as connection:
        watch.add(connection.server.fileno())
        connection.server.shutdown(socket.SHUT_RD)
        assert watch.drain() == [connection.server.fileno()]


def test_socket_that_has_not_connected_is_told_of(watch: PeerCloseWatch) -> None:
    """Likewise only a hint."""
    with socket.socket() as fresh:
        watch.add(fresh.fileno())
        assert watch.drain() == [fresh.fileno()]


def test_closed_descriptor_drops_out(watch: PeerCloseWatch) -> None:
    """Of connections that are closed properly nothing is ever said, not even of one that hung up."""
    with vanished_peer() as connection:
        watch.add(connection.server.fileno())
        connection.server.close()
        assert watch.drain() == []


def test_duplicate_keeps_a_ghost_in_the_set(watch: PeerCloseWatch) -> None:
    """It goes on telling of the number that was closed: that number says nothing of who it is."""
    with connect() as connection:
        fd = connection.server.fileno()
        watch.add(fd)
        with connection.server.dup():
            connection.server.close()
            with open(os.devnull) as file:
                assert file.fileno() == fd
                connection.client.close()
                assert eventually(watch.drain) == [fd]


def test_child_keeps_a_ghost_in_the_set(watch: PeerCloseWatch) -> None:
    """A connection that was inherited, and closed here."""
    with connect() as connection:
        fd = connection.server.fileno()
        watch.add(fd)
        with start_child(pass_fds=[fd]):
            connection.server.close()
            connection.client.close()
            assert eventually(watch.drain) == [fd]


def test_what_has_no_events_is_refused(watch: PeerCloseWatch) -> None:
    """A file, and a number that is closed."""
    with open(__file__) as file:
        assert not watch.add(file.fileno())
    assert not watch.add(1 << 19)


def test_more_than_one_question_takes_are_told(watch: PeerCloseWatch, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each once, whatever the size of an answer."""
    monkeypatch.setattr(peer_close, "_MAX_EVENTS", 2)
    with contextlib.ExitStack() as stack:
        fds = [stack.enter_context(vanished_peer()).server.fileno() for _ in range(5)]
        for fd in fds:
            watch.add(fd)
        assert sorted(watch.drain()) == sorted(fds)
        assert watch.drain() == []


def test_descriptor_closed_while_it_is_armed_anew(watch: PeerCloseWatch, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread may close it between the two questions to the kernel."""

    class Racing:
        def register(self, *_: object) -> None:
            raise FileExistsError

        def modify(self, *_: object) -> None:
            raise FileNotFoundError

    with monkeypatch.context() as patch:
        patch.setattr(watch, "_epoll", Racing())
        assert not watch.add(0)


# Is it still ours?


def test_set_in_use_is_intact(watch: PeerCloseWatch) -> None:
    """And asking changes nothing."""
    with vanished_peer() as connection:
        watch.add(connection.server.fileno())
        assert watch.is_intact
        assert watch.drain() == [connection.server.fileno()]


@pytest.mark.usefixtures("no_garbage")
def test_closed_set_is_not_intact_and_nothing_is_left() -> None:
    """Its descriptors are given back; closing it twice is no error."""
    before = os.listdir("/proc/self/fd")
    watch = PeerCloseWatch()
    watch.close()
    assert not watch.is_intact
    watch.close()
    gc.collect()
    assert os.listdir("/proc/self/fd") == before


def marker_number(watch: PeerCloseWatch) -> int:
    return watch._marker.fileno()  # noqa: SLF001 - a program closes it by its number


def put_file_at(number: int) -> None:
    with open(os.devnull) as file:
        os.dup2(file.fileno(), number)


@pytest.mark.parametrize("which", ["set", "marker", "both"])
@pytest.mark.parametrize("successor", ["nothing", "file"])
def test_closing_by_the_program_is_noticed(which: str, successor: str) -> None:
    """A daemon closes all: whatever has our numbers next is not touched, then or later."""
    watch = PeerCloseWatch()
    numbers = {"set": [epoll_number(watch)], "marker": [marker_number(watch)]}.get(
        which, [epoll_number(watch), marker_number(watch)]
    )
    kept = [number for number in (epoll_number(watch), marker_number(watch)) if number not in numbers]
    for number in numbers:
        put_file_at(number) if successor == "file" else os.close(number)
    assert not watch.is_intact
    watch.close()
    del watch
    gc.collect()
    for number in numbers:
        if successor == "file":
            os.fstat(number)
            os.close(number)
    for number in kept:  # a set whose marker is lost cannot be told from another's, so it is left
        with contextlib.suppress(OSError):
            os.close(number)


def test_set_of_the_program_at_our_number_is_left_alone() -> None:
    """Even if it watches something by the number that our marker had: nothing in it is changed."""
    watch = PeerCloseWatch()
    ours, marker = epoll_number(watch), marker_number(watch)
    reader, writer = os.pipe()
    theirs = select.epoll()
    os.dup2(theirs.fileno(), ours)
    os.dup2(reader, marker)
    theirs.register(marker, select.EPOLLIN)
    os.write(writer, b"x")
    assert not watch.is_intact
    watch.close()
    del watch
    gc.collect()
    with select.epoll.fromfd(ours) as same:
        assert same.poll(0) == [(marker, select.EPOLLIN)]
    theirs.close()
    for number in (reader, writer, marker):
        os.close(number)


def test_set_of_the_program_without_our_marker_is_not_ours() -> None:
    """The marker is still open, the set is another."""
    watch = PeerCloseWatch()
    theirs = select.epoll()
    os.dup2(theirs.fileno(), epoll_number(watch))
    assert not watch.is_intact
    number = epoll_number(watch)
    watch.close()
    os.fstat(number)
    os.close(number)
    theirs.close()


def test_set_is_not_inherited_by_another_program(watch: PeerCloseWatch) -> None:
    """It is closed on exec; only a fork shares it."""
    assert not os.get_inheritable(epoll_number(watch))
    assert not os.get_inheritable(marker_number(watch))


FORK = """
import os, sys
sys.path.insert(0, sys.argv[1])
from loopback import connect, vanished_peer
from sockguard._kernel.peer_close import PeerCloseWatch
from waiting import eventually
watch = PeerCloseWatch()
with connect() as ours:
    watch.add(ours.server.fileno())
    if (pid := os.fork()) == 0:
        watch.close()
        watch = PeerCloseWatch()
        with vanished_peer() as theirs:
            print("child", watch.add(theirs.server.fileno()), watch.drain() == [theirs.server.fileno()], flush=True)
            os._exit(0)
    os.waitpid(pid, 0)
    print("parent", watch.is_intact, watch.drain())
    ours.client.close()
    print(eventually(watch.drain) == [ours.server.fileno()])
watch.close()
"""


@pytest.mark.slow
def test_forked_child_lets_go_of_the_set_and_has_its_own() -> None:
    """The parent's goes on, and does not hear of the child's connections."""
    command = [sys.executable, "-c", FORK, os.path.dirname(os.path.dirname(__file__))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["child True True", "parent True []", "True"]
