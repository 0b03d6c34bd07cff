"""What happens at a tick to new, gone, sick and due connections: real sockets, and a clock that the test moves."""

import contextlib
import math
import os
import random
import socket
import time

import pytest

from guarded import driven
from loopback import connect, listen, reset, state_of, vanished_peer
from sockguard import Keepalive
from sockguard._engine import established, strangers, sweep
from sockguard._kernel.one_socket import read_cookie
from waiting import eventually

CLOSE_WAIT = 8


@pytest.fixture(autouse=True)
def _are_cheap(monkeypatch):
    """Scans are due by what they find, not by how long they take on this machine."""
    monkeypatch.setattr(strangers, "SHARE", math.inf)


def keepalive_of(sock: socket.socket) -> tuple[int, int, int, int]:
    """Reads whether and how a connection is kept alive."""
    options = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
    return (
        sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE),
        *(sock.getsockopt(socket.IPPROTO_TCP, option) for option in options),
    )


# --- New ---


def test_keepalive_is_set_at_the_first_tick():
    """As the policy says; until then the connection is as the program made it."""
    with connect() as c, driven(keepalive=Keepalive(idle=7, interval=3, count=2)) as d:
        d.adopt(c.server)
        assert keepalive_of(c.server)[0] == 0
        d.tick()
        assert keepalive_of(c.server) == (1, 7, 3, 2)
        assert keepalive_of(c.client)[0] == 0


def test_what_the_program_has_set_is_left():
    """A keepalive of the program's own is not overridden."""
    with connect() as c, driven() as d:
        c.server.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        c.server.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 1234)
        d.adopt(c.server)
        d.tick()
        assert keepalive_of(c.server)[:2] == (1, 1234)


@pytest.mark.parametrize("fields", [{"keepalive": None}, {"mode": "observe"}])
def test_no_keepalive_where_the_policy_says_so(fields):
    """None turns it off, and `observe` touches nothing."""
    with connect() as c, driven(**fields) as d:
        d.adopt(c.server)
        d.tick()
        assert keepalive_of(c.server)[0] == 0


def scans_now(d, monkeypatch):
    """Has the guard look for established connections that nobody announced, however many sockets this machine has."""
    monkeypatch.setattr(established, "PER_SOCKET", 0.0)
    d.guard._sweep._established._due_at = 0.0  # noqa: SLF001


def test_what_nobody_announced_is_kept_alive_too(monkeypatch):
    """Passed by a message, made before install() or by a C library: a peer that vanishes from it is to be found."""
    with connect() as c, driven(keepalive=Keepalive(idle=7, interval=3, count=2)) as d:
        scans_now(d, monkeypatch)
        d.tick()
        assert [keepalive_of(sock) for sock in (c.server, c.client)] == [(1, 7, 3, 2)] * 2
        assert [d.guard.registry.by_fd[sock.fileno()].is_server for sock in (c.server, c.client)] == [True, False]


@pytest.mark.parametrize("fields", [{"keepalive": None}, {"mode": "observe"}])
def test_what_nobody_announced_is_let_be_where_the_policy_says_so(fields, monkeypatch):
    """It is not even searched for, as nothing would be done to it."""
    with connect() as c, driven(**fields) as d:
        scans_now(d, monkeypatch)
        d.tick()
        assert [keepalive_of(sock)[0] for sock in (c.server, c.client)] == [0, 0]
        assert d.guard.registry.by_fd == {}


def test_a_program_is_not_kept_waiting_for_the_search(monkeypatch):
    """In its own thread, as in a selector, milliseconds for nothing but keepalive are too much."""
    with connect() as c, driven() as d:
        scans_now(d, monkeypatch)
        d.guard.tick(d.now, 100)
        assert c.server.fileno() not in d.guard.registry.by_fd


def test_what_nobody_announced_is_kept_alive_also_if_its_peer_hung_up():
    """It may wait for long for its program to close it, and its peer's host may go meanwhile."""
    with vanished_peer() as c, driven(fin_timeout=None, leak_after=None) as d:
        d.tick()
        assert c.server.fileno() in d.guard.registry.by_fd
        assert keepalive_of(c.server)[0] == 1


def test_a_connection_that_is_closed_before_its_first_tick_leaves_nothing():
    """It costs a tuple in a queue."""
    with connect() as c, driven() as d:
        c.client.close()
        d.guard.adopt(c.server, c.server, True)
        c.server.close()
        d.tick()
        assert (d.guard.registry.by_fd, list(d.guard.registry.opened), d.events) == ({}, [], [])


@pytest.mark.parametrize("family", [socket.AF_UNIX, socket.AF_INET], ids=["unix", "udp"])
def test_what_is_no_tcp_connection_is_forgotten(family):
    """connect() is also called on sockets of other kinds; nothing is said of them, and nothing set."""
    with contextlib.ExitStack() as stack:
        if family == socket.AF_UNIX:
            sock, other = socket.socketpair()
            stack.enter_context(sock)
            stack.enter_context(other)
        else:
            sock = stack.enter_context(socket.socket(family, socket.SOCK_DGRAM))
            sock.connect(("127.0.0.1", 9))
        d = stack.enter_context(driven(idle_timeout=1))
        d.adopt(sock)
        d.tick()
        assert (d.guard.registry.by_fd, d.events) == ({}, [])


def test_a_listener_is_no_connection():
    """However it came to be announced."""
    with listen() as listener, driven(idle_timeout=1) as d:
        d.adopt(listener)
        d.tick()
        assert d.guard.registry.by_fd == {}


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_a_connection_that_is_still_being_made_is_waited_for(family):
    """connect() of a non-blocking socket: it is watched from when it is there, and not taken for a dead one before."""
    with listen(family) as listener, socket.socket(family) as client, driven(fin_timeout=1, leak_after=1) as d:
        record = d.adopt(client, is_server=False)  # at the very start: not even begun
        for _ in range(3):
            d.tick(2)
        assert (record.cookie, d.events) == (None, [])
        client.connect(listener.getsockname())
        d.tick()
        assert record.cookie == read_cookie(client)


def test_a_refused_connect_is_no_leak():
    """The socket is in state CLOSE as a dead connection is, and never was one."""
    with listen() as listener:
        address = listener.getsockname()
    with socket.socket() as client, driven(fin_timeout=1, leak_after=1) as d:
        client.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            client.connect(address)
        d.adopt(client, is_server=False)
        eventually(lambda: state_of(client) == 7)
        for _ in range(5):
            d.tick(2)
        assert d.events == []


# --- Gone ---


def test_a_told_leak_is_taken_back_when_it_is_closed():
    """Also if the program keeps the socket object: then nothing tells, and the guard looks now and then."""
    with vanished_peer() as c, driven(leak_after=2, fin_timeout=None) as d:
        d.adopt(c.server)
        d.tick()
        d.tick(3)
        [leak] = d.told("leak_detected")
        c.server.close()
        d.tick(1)
        d.tick(sweep.AGAIN_AFTER)
        [cleared] = d.told("leak_cleared")
        assert (cleared.fields["how"], cleared.fields["cookie"]) == ("closed", leak.fields["cookie"])
        assert d.guard.registry.by_fd == {}
        d.tick(60)
        assert len(d.told("leak_cleared")) == 1


def test_a_told_leak_that_moves_again_is_taken_back():
    """And told anew if it stands still again."""
    with vanished_peer(sent=b"much") as c, driven(leak_after=2, fin_timeout=None) as d:
        d.adopt(c.server)
        d.tick()
        d.tick(3)
        c.server.recv(2)
        d.tick(sweep.AGAIN_AFTER + 0.25)
        [cleared] = d.told("leak_cleared")
        assert cleared.fields["how"] == "moved"
        d.tick(3)
        assert len(d.told("leak_detected")) == 2


def test_a_leak_is_told_once():
    """However long it stands still."""
    with vanished_peer() as c, driven(leak_after=2, fin_timeout=None) as d:
        d.adopt(c.server)
        for _ in range(30):
            d.tick(3)
        assert (len(d.told("leak_detected")), len(d.told("peer_closed"))) == (1, 1)


def test_a_repaired_program_is_silent():
    """A connection that is closed before `leak_after` is over is not spoken of but in debug."""
    with connect() as c, driven(leak_after=2) as d:
        d.adopt(c.server)
        d.tick()
        c.client.close()
        eventually(lambda: state_of(c.server) == CLOSE_WAIT)
        d.tick(1)
        c.server.close()
        for _ in range(5):
            d.tick(2)
        assert [event.name for event in d.events] == ["peer_closed"]


def test_what_the_guard_has_ended_is_taken_back_as_such():
    """A leak that was told is cleared by the guard's own hand, once."""
    with vanished_peer() as c, driven(leak_after=2, fin_timeout=5) as d:
        d.adopt(c.server)
        for _ in range(4):
            d.tick(3)
        [cleared] = d.told("leak_cleared")
        assert cleared.fields["how"] == "ended_by_guard"
        c.server.close()
        d.tick(60)
        assert len(d.told("leak_cleared")) == 1


# --- Numbers that are used again ---


class Traffic:
    """Connections that come and go, healthy and sick, by a chance that can be repeated."""

    def __init__(self, d, stack):
        self.driven, self.chance = d, random.Random(7)
        self.listener = stack.enter_context(listen(backlog=64))
        self.open: dict[socket.socket, socket.socket] = {}
        self.sick: list[socket.socket] = []
        self._stack = stack

    def begin(self) -> None:
        client = self._stack.enter_context(socket.create_connection(self.listener.getsockname()))
        server = self._stack.enter_context(self.listener.accept()[0])
        self.driven.guard.adopt(server, server, True)
        self.open[server] = client

    def end(self) -> None:
        """Ends any one: most properly, some only by the client, and then now and again a sick one, too."""
        server = self.chance.choice([*self.open])
        self.open.pop(server).close()
        if self.chance.random() < 0.1:
            self.sick.append(server)
            if len(self.sick) > 20:
                self.sick.pop(self.chance.randrange(20)).close()
        else:
            server.close()

    def are_healthy(self) -> bool:
        """Sends both ways on all that nobody has ended."""
        for server, client in self.open.items():
            client.sendall(b"alive")
            server.sendall(b"too")
        return all(server.recv(9) == b"alive" and client.recv(9) == b"too" for server, client in self.open.items())


@pytest.mark.slow
def test_no_healthy_connection_is_ever_hit_by_the_verdict_on_its_number():
    """2,000 connections close and open between ticks, in whatever order, with sick ones among them."""
    with contextlib.ExitStack() as stack, driven(fin_timeout=1, leak_after=0.5) as d:
        traffic = Traffic(d, stack)
        for _ in range(40):
            traffic.begin()
        for n in range(2000):
            traffic.end()
            traffic.begin()
            if n % 25 == 0:
                d.tick(traffic.chance.choice([0.25, 0.25, 0.5, 1.5]))
        assert traffic.are_healthy()
        assert d.closed()
        for _ in range(20):
            d.tick(1.5)
        assert [sock for sock in traffic.sick if state_of(sock) == CLOSE_WAIT] == []
        assert traffic.are_healthy()
        assert {reason for reason, _ in d.closed()} == {"half_closed"}


def test_a_file_that_gets_the_number_is_let_be():
    """Whatever kind of file it is, it is neither touched nor reported."""
    with vanished_peer() as c, driven(fin_timeout=5, leak_after=2) as d:
        d.adopt(c.server)
        d.tick()
        number = c.server.fileno()
        c.server.close()
        reader, writer = os.pipe()
        os.dup2(reader, number) if reader != number else None
        try:
            for _ in range(5):
                d.tick(3)
            os.write(writer, b"x")
            assert os.read(number, 1) == b"x"
            assert d.closed() + d.told("leak_detected") == []
        finally:
            for fd in {reader, writer, number}:
                os.close(fd)
            c.server.detach()


# --- Mistakes of our own ---


def test_one_that_cannot_be_looked_at_does_not_keep_the_others(monkeypatch):
    """A hang-up is told once by the kernel: those that came with it are looked at nevertheless, and it itself later."""
    with contextlib.ExitStack() as stack, driven(fin_timeout=5, leak_after=None) as d:
        sick = [stack.enter_context(vanished_peer()).server for _ in range(5)]
        records = [d.adopt(server) for server in sick]
        look, seen = d.guard._sweep._enforcer.look, []  # noqa: SLF001

        def fail(record, *rest):
            if not seen:
                seen.append(record)
                raise ZeroDivisionError
            return look(record, *rest)

        monkeypatch.setattr(d.guard._sweep._enforcer, "look", fail)  # noqa: SLF001
        d.guard.tick(d.now + 0.25)
        assert len(d.told("guard_failed")) == 1
        d.events.clear()
        for _ in range(8):
            d.tick(3)
        assert len(d.closed()) == len(records)
        assert all(record.is_ended_by_guard for record in records)


def test_without_a_descriptor_to_look_with_it_is_tried_again(monkeypatch):
    """EMFILE is no verdict on the connection: the guard keeps it and looks at the next tick."""
    with vanished_peer() as c, driven(fin_timeout=5, leak_after=None) as d:
        d.adopt(c.server)
        look, refusals = d.guard._sweep._enforcer.look, [OSError(24, "EMFILE")] * 3  # noqa: SLF001

        def refuse(*what):
            if refusals:
                raise refusals.pop()
            return look(*what)

        monkeypatch.setattr(d.guard._sweep._enforcer, "look", refuse)  # noqa: SLF001
        for _ in range(8):
            d.tick(2)
        assert d.closed() == [("half_closed", "shut_down")]


def test_without_a_descriptor_to_admit_with_it_is_tried_again(monkeypatch):
    """A connection of which EMFILE is all that could be found out is none that is gone."""
    with connect() as c, driven(fin_timeout=5, leak_after=None) as d:
        record = d.adopt(c.server)
        d.guard._sweep.open()  # noqa: SLF001
        borrower = d.guard._sweep._borrower  # noqa: SLF001
        borrow, refusals = borrower.borrow, [OSError(24, "EMFILE")] * 3

        def refuse(*what):
            if refusals:
                raise refusals.pop()
            return borrow(*what)

        monkeypatch.setattr(borrower, "borrow", refuse)
        for _ in range(4):
            d.tick()
        assert (d.guard.registry.by_fd, record.cookie) == ({c.server.fileno(): record}, read_cookie(c.server))


# --- The watch itself ---


def test_a_watch_that_the_program_closed_is_built_anew():
    """The program closes descriptors that it has not opened: nothing that was watched is lost."""
    with connect() as c, driven(fin_timeout=5, leak_after=None) as d:
        d.adopt(c.server)
        d.tick()
        os.close(d.guard._sweep._peers._epoll.fileno())  # noqa: SLF001
        d.tick()
        c.client.close()
        eventually(lambda: state_of(c.server) == CLOSE_WAIT)
        d.tick()
        d.tick(6)
        assert d.closed() == [("half_closed", "shut_down")]


def test_healthy_connections_are_not_looked_at(monkeypatch):
    """Without time-outs for live ones, a tick does nothing for those that are merely there."""
    with contextlib.ExitStack() as stack, driven() as d:
        for _ in range(10):
            d.adopt(stack.enter_context(connect()).server)
        d.tick()
        looked: list[object] = []
        monkeypatch.setattr(d.guard._sweep, "_look", looked.append)  # noqa: SLF001
        for _ in range(50):
            d.tick(10)
        assert looked == []


# --- Many at once ---


@pytest.mark.slow
def test_many_leaks_at_once_are_told_in_no_time():
    """A peer with hundreds of connections dies: the guard asks the kernel once for all of them, not for each."""
    with listen(backlog=512) as listener, contextlib.ExitStack() as stack, driven(leak_after=2, fin_timeout=60) as d:
        for _ in range(300):
            client = socket.create_connection(listener.getsockname())
            server, _ = listener.accept()
            stack.callback(server.close)
            d.guard.adopt(server, server, True)
            client.close()
        d.tick()
        began_at = time.thread_time()
        d.tick(3)
        seconds = time.thread_time() - began_at
        assert len(d.told("leak_detected")) == 300
        assert {leak.fields["cause"] for leak in d.told("leak_detected")} == {"eof_unread"}
        assert seconds < 1.5, seconds


def test_a_dead_connection_is_told_with_its_addresses():
    """Both of them, though getpeername() tells no peer after a reset."""
    with connect() as c, driven(leak_after=2, fin_timeout=None) as d:
        d.adopt(c.server)
        d.tick()
        local, remote = (f"{host}:{port}" for host, port in (c.server.getsockname(), c.client.getsockname()))
        reset(c.client)
        eventually(lambda: state_of(c.server) == 7)
        for _ in range(3):
            d.tick(3)
        [leak] = d.told("leak_detected")
        assert (leak.fields["local"], leak.fields["remote"], leak.fields["cause"]) == (local, remote, "dead_fd")


# --- Without a thread: so much at once, and no more ---


@contextlib.contextmanager
def crowd(d, n):
    """Has the guard take in so many connections; gives the server's ends."""
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(connect()) for _ in range(n)]
        for c in socks:
            d.adopt(c.server)
        yield socks


def test_a_tick_in_the_programs_thread_admits_so_many_and_asks_to_come_again():
    """In the order in which they came; with a thread of its own the guard has all the time it wants."""
    with driven() as d, crowd(d, 12) as socks:
        seen = []
        while not seen or seen[-1][1]:
            d.now += 0.25
            is_behind = d.guard.tick(d.now, 5)
            admitted = [d.guard.registry.by_fd[c.server.fileno()].cookie is not None for c in socks]
            assert admitted == sorted(admitted, reverse=True)
            seen.append((sum(admitted), is_behind))
        assert seen == [(5, True), (10, True), (12, False)]


def test_a_tick_in_the_programs_thread_looks_at_so_many():
    """All peers hang up at once, and all are ended, some at this tick, and the others at the next."""
    with driven(fin_timeout=1, leak_after=None) as d, crowd(d, 12) as socks:
        d.tick()
        for c in socks:
            c.client.close()
        eventually(lambda: all(state_of(c.server) == CLOSE_WAIT for c in socks))
        n_seen = []
        while not n_seen or n_seen[-1] < 12:
            assert d.guard.tick(d.now + len(n_seen) * 0.01, 5) == (len(n_seen) < 2)
            n_seen.append(len(d.told("peer_closed")))
        assert n_seen == [5, 10, 12]


def test_connections_that_are_on_their_way_hold_nobody_up():
    """However many there are: they are passed over, and those behind them admitted; and nobody is asked to hurry."""
    with driven() as d, contextlib.ExitStack() as stack:
        listener = stack.enter_context(listen(backlog=0))
        for _ in range(8):  # the queue takes one or two; the others wait for an answer
            sock = stack.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex(listener.getsockname())
            d.adopt(sock, is_server=False)
        c = stack.enter_context(connect())
        record = d.adopt(c.server)
        eventually(lambda: d.guard.tick(d.now, 2) or record.cookie is not None)
        assert record.cookie is not None
        eventually(lambda: not d.guard.tick(d.now, 2))
        assert len(d.guard.registry._new) >= 5  # noqa: SLF001 - still on their way


def test_what_is_not_admitted_yet_is_not_looked_at():
    """Its object can die before its turn has come, as by detach(); the tick is not lost, and its turn comes."""
    with contextlib.ExitStack() as stack, driven(fin_timeout=5, leak_after=None) as d:
        ends = [stack.enter_context(connect()) for _ in range(3)]
        for c in ends:
            d.guard.adopt(c.server, c.server, True)
        d.guard.tick(d.now, 1)
        owner = socket.socket(fileno=os.dup(ends[-1].server.fileno()))
        d.guard.adopt(owner, owner, True)
        d.guard.tick(d.now + 0.25, 1)
        with socket.socket(fileno=owner.detach()) as kept:
            del owner
            for n in range(2, 8):
                d.guard.tick(d.now + n * 0.25, 1)
            assert d.told("guard_failed") == []
            assert d.guard.registry.by_fd[kept.fileno()].cookie == read_cookie(kept)
