"""Hung-up descriptors of this process by poll(), against a full look at each of them."""

import contextlib
import io
import os
import random
import resource
import select
import socket
import stat
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from children import start_child
from loopback import connect, inode_of, reset, state_of, vanished_peer
from sockguard._kernel import own_fds
from sockguard._kernel.natives import system
from sockguard._kernel.own_fds import (
    BLOCK,
    read_all_sockets,
    read_fd_count,
    read_fd_limit,
    read_hung_up,
    read_table_size,
)
from waiting import eventually


def full_scan() -> dict[int, list[int]]:
    """The same question asked of each descriptor alone: a poll object for every single one."""
    found: dict[int, list[int]] = {}
    for fd in sorted(map(int, os.listdir("/proc/self/fd"))):
        with contextlib.suppress(OSError):
            status = os.fstat(fd)
            poller = select.poll()
            poller.register(fd, select.POLLRDHUP)
            if stat.S_ISSOCK(status.st_mode) and poller.poll(0):
                found.setdefault(status.st_ino, []).append(fd)
    return found


def test_quiet_connections_are_not_listed() -> None:
    """Connected and listening sockets are healthy; nothing is said of them."""
    with connect() as connection:
        assert read_hung_up().keys().isdisjoint(map(inode_of, connection))


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_connection_whose_peer_hung_up_is_listed(family: socket.AddressFamily) -> None:
    """With its inode and its descriptor; and its listener is not."""
    with vanished_peer(family, sent=b"unread") as connection:
        hung_up = read_hung_up()
        assert hung_up[inode_of(connection.server)] == [connection.server.fileno()]
        assert inode_of(connection.listener) not in hung_up


def test_dead_connection_is_listed() -> None:
    """A reset connection is in no table any more, and hung up."""
    with connect() as connection:
        reset(connection.client)
        eventually(lambda: state_of(connection.server) == 7)
        assert read_hung_up()[inode_of(connection.server)] == [connection.server.fileno()]


def test_answer_is_the_same_where_no_memory_is_to_be_kept() -> None:
    """Poll objects that are thrown away tell what kept ones tell."""
    with vanished_peer() as connection:
        found = read_hung_up(keeps_pollers=False)
        assert found[inode_of(connection.server)] == [connection.server.fileno()]
        assert found == read_hung_up()


def test_duplicates_are_listed_in_ascending_order() -> None:
    """All descriptors of one socket come together, the lowest first."""
    with vanished_peer() as connection, connection.server.dup() as second, connection.server.dup() as third:
        fds = [sock.fileno() for sock in (connection.server, second, third)]
        assert read_hung_up()[inode_of(connection.server)] == sorted(fds)
        assert read_all_sockets()[inode_of(connection.server)] == sorted(fds)


def test_looking_takes_nothing_away() -> None:
    """Neither the data nor the end of file nor an edge-triggered event of the application is consumed."""
    with vanished_peer(sent=b"hello") as connection, select.epoll() as epoll:
        epoll.register(connection.server, select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET)
        read_hung_up()
        assert [fd for fd, _ in epoll.poll(0)] == [connection.server.fileno()]
        assert (connection.server.recv(9), connection.server.recv(9)) == (b"hello", b"")


def test_files_and_pipes_are_no_sockets() -> None:
    """A pipe whose reader is gone is hung up as well, but it is none of ours."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        assert os.fstat(writer).st_ino not in read_hung_up()
        assert os.fstat(writer).st_ino not in read_all_sockets()
    finally:
        os.close(writer)


def test_all_sockets_are_listed_whatever_their_state() -> None:
    """Listening, connected, hung up, never connected, of any family."""
    one, other = socket.socketpair()
    with vanished_peer() as gone, connect() as connection, socket.socket() as fresh, one, other:
        mine = [gone.listener, gone.server, *connection, fresh, one, other]
        found = read_all_sockets()
        assert {inode: found.get(inode) for inode in map(inode_of, mine)} == {inode_of(s): [s.fileno()] for s in mine}


def make_file(kind: str, stack: contextlib.ExitStack) -> None:
    if kind == "file":
        stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 - the stack is the context
        return
    reader, writer = os.pipe()
    stack.callback(os.close, writer)
    os.close(reader) if kind == "broken pipe" else stack.callback(os.close, reader)


def make_lonely_socket(kind: str, stack: contextlib.ExitStack) -> None:
    if kind in ("fresh", "udp"):
        stack.enter_context(socket.socket(type=socket.SOCK_DGRAM if kind == "udp" else socket.SOCK_STREAM))
        return
    one, other = socket.socketpair()
    stack.enter_context(one)
    other.close() if kind == "unix gone" else stack.enter_context(other)


def make_connection(kind: str, stack: contextlib.ExitStack) -> None:
    connection = stack.enter_context(connect())
    if kind == "reset":
        reset(connection.client)
        eventually(lambda: state_of(connection.server) == 7)
    elif kind != "open":
        connection.client.shutdown(socket.SHUT_WR)
        eventually(lambda: state_of(connection.server) == 8)
    if kind == "duplicate":
        connection.client.close()
        stack.enter_context(connection.server.dup())


MAKERS = {
    "file": make_file,
    "pipe": make_file,
    "broken pipe": make_file,
    "fresh": make_lonely_socket,
    "udp": make_lonely_socket,
    "unix": make_lonely_socket,
    "unix gone": make_lonely_socket,
    "open": make_connection,
    "reset": make_connection,
    "half-closed": make_connection,
    "duplicate": make_connection,
}


@pytest.mark.slow
@settings(max_examples=40)
@given(st.lists(st.sampled_from(sorted(MAKERS)), max_size=12), st.randoms(use_true_random=False))
def test_any_population_is_seen_as_by_a_full_scan(kinds: list[str], randomness: random.Random) -> None:
    """One poll() over all numbers tells the same as a look at each descriptor, holes in the table included."""
    with contextlib.ExitStack() as stack:
        holes = [os.open(os.devnull, os.O_RDONLY) for _ in kinds]
        for kind in kinds:
            MAKERS[kind](kind, stack)
            os.close(holes.pop(randomness.randrange(len(holes))))
        assert read_hung_up() == full_scan()


def test_descriptor_closed_since_the_last_look_is_forgotten() -> None:
    """No number is remembered: what was hung up and is closed now is gone, whatever has its number next."""
    with connect() as healthy, vanished_peer() as connection:
        inode, number = inode_of(connection.server), connection.server.fileno()
        assert inode in read_hung_up()
        connection.server.close()
        assert inode not in read_hung_up()
        assert os.dup2(healthy.server.fileno(), number) == number
        try:
            assert number not in {fd for fds in read_hung_up().values() for fd in fds}
        finally:
            os.close(number)


def test_descriptor_closed_between_poll_and_look_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread may close it at any moment; the others come back."""
    genuine = os.fstat
    with vanished_peer() as doomed, vanished_peer() as other:
        inodes = [inode_of(c.server) for c in (doomed, other)]
        number = doomed.server.fileno()

        def fstat(fd: int) -> os.stat_result:
            if fd == number:
                doomed.server.close()
            return genuine(fd)

        monkeypatch.setattr(system, "fstat", fstat)
        assert [inode in read_hung_up() for inode in inodes] == [False, True]


def test_table_is_as_large_as_the_kernel_says() -> None:
    """No descriptor is beyond the size of the table."""
    assert max(map(int, os.listdir("/proc/self/fd"))) < read_table_size() <= 1 << 30


@contextlib.contextmanager
def descriptor_limit(soft: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.slow
def test_growing_table_is_covered() -> None:
    """A descriptor beyond all that were known at the last look is found, and the healthy below are not."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    wanted = max(4 * read_table_size(), 3 * BLOCK + 1)
    if hard < wanted:
        pytest.skip(f"the hard limit of {hard} descriptors leaves no room for the table to grow")
    with descriptor_limit(hard), vanished_peer() as connection:
        before = read_hung_up()
        high = os.dup2(connection.server.fileno(), wanted - 1)
        try:
            assert read_table_size() >= wanted
            assert read_hung_up()[inode_of(connection.server)] == [connection.server.fileno(), high]
        finally:
            os.close(high)
        assert read_hung_up() == before


ASK_IN_CHILD = """
import resource, socket, sys, os
for _ in range({n_open}): os.dup(0)
resource.setrlimit(resource.RLIMIT_NOFILE, ({limit}, {limit}))
listener = socket.create_server(("127.0.0.1", 0))
client = socket.create_connection(listener.getsockname())
server, _ = listener.accept()
client.close()
while server.getsockopt(6, 11, 1)[0] != 8: pass
from sockguard._kernel.own_fds import read_hung_up
found = read_hung_up()
"""


@pytest.mark.slow
@pytest.mark.parametrize(("n_open", "limit"), [(0, 50), (600, 1000)])
def test_limit_below_the_size_of_the_table_is_no_hindrance(n_open: int, limit: int) -> None:
    """The kernel rounds the table up (64, 256, 512, 1024 ...), so it is often above the limit (ulimit -n 1000)."""
    with start_child() as child:
        for line in ASK_IN_CHILD.format(n_open=n_open, limit=limit).strip().splitlines():
            child.do(line)
        assert child.ask("found[os.fstat(server.fileno()).st_ino] == [server.fileno()]") == "True"


def test_all_sockets_are_listed_where_poll_takes_too_few() -> None:
    """Under a very low limit more is listed than is hung up, never less; what is listed is looked at anyway."""
    with connect() as healthy, vanished_peer() as sick:
        highest = max(map(int, os.listdir("/proc/self/fd")))
        with descriptor_limit(highest + 10):
            found = read_hung_up()
        mine = [healthy.server, sick.server]
        assert [found[inode_of(sock)] for sock in mine] == [[sock.fileno()] for sock in mine]
        assert inode_of(healthy.server) not in read_hung_up()


@pytest.mark.slow
def test_threads_do_not_disturb_each_other() -> None:
    """Four threads ask while others open and close: each answer has what was hung up all the time."""
    with vanished_peer() as one, vanished_peer() as other:
        expected = {inode_of(c.server): [c.server.fileno()] for c in (one, other)}
        is_over = threading.Event()

        def churn() -> None:
            while not is_over.is_set():
                with contextlib.ExitStack() as stack:
                    for _ in range(20):
                        stack.enter_context(socket.socket())

        def ask(_: int) -> dict[int, list[int]]:
            return read_hung_up()

        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-5)
        churner = threading.Thread(target=churn)
        try:
            churner.start()
            with ThreadPoolExecutor(4) as pool:
                answers = list(pool.map(ask, range(800)))
        finally:
            is_over.set()
            churner.join()
            sys.setswitchinterval(interval)
        assert len(answers) == 800
        assert all(answer.items() >= expected.items() for answer in answers)


def test_missing_size_is_0(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where /proc does not tell the size, no descriptor is looked at, and nothing is raised."""
    monkeypatch.setattr(own_fds, "open_file", lambda *_: io.BytesIO(b"Name:\tpython\n"))
    assert read_table_size() == 0
    assert read_hung_up() == {}


@pytest.mark.parametrize("replacement", ["a class in Python", "nothing"])
def test_poll_of_a_monkey_patcher_is_not_trusted(monkeypatch: pytest.MonkeyPatch, replacement: str) -> None:
    """Where gevent puts a poll of its own, or eventlet takes it away, descriptors are looked at one by one."""

    class Poll:
        def register(self, *_: object) -> None: ...

        def poll(self, *_: object) -> list[tuple[int, int]]:
            return []

    with vanished_peer() as connection:
        if replacement == "nothing":
            monkeypatch.delattr(select, "poll")
        else:
            monkeypatch.setattr(select, "poll", Poll)
        assert read_hung_up()[inode_of(connection.server)] == [connection.server.fileno()]


@pytest.mark.usefixtures("no_garbage")
def test_open_descriptors_are_counted() -> None:
    """Each one that is opened counts, until it is closed."""
    before = read_fd_count()
    reader, writer = os.pipe()
    assert read_fd_count() == before + 2
    os.close(reader)
    os.close(writer)
    assert read_fd_count() == before


def test_open_descriptors_are_counted_one_by_one_before_linux_6_2(monkeypatch: pytest.MonkeyPatch) -> None:
    """There the folder's size is 0; listing it takes a descriptor more."""
    expected = read_fd_count()
    genuine = os.stat

    def stat_of_old(path: str) -> object:
        status = genuine(path)
        return os.stat_result((*status[:6], 0, *status[7:])) if path == "/proc/self/fd" else status

    monkeypatch.setattr(system, "stat", stat_of_old)
    assert read_fd_count() == expected + 1


def test_limit_of_descriptors_is_the_soft_one() -> None:
    """It can change at any moment, so it is asked for each time."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    assert read_fd_limit() == soft
    with descriptor_limit(soft - 1):
        assert read_fd_limit() == soft - 1


def test_no_limit_of_descriptors_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Linux does not grant that for descriptors; a sandbox may say so."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert read_fd_limit() is None
