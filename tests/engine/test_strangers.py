"""Connections that nothing announced: those of this process are found by the kernel's list, others are let be."""

import contextlib
import ctypes
import errno
import math
import os
import socket
import struct

import pytest

from children import start_child
from guarded import Driven, driven
from loopback import connect, listen, reset, state_of, vanished_peer
from netstat import CLOSE_WAIT, wait_for
from servers import port_of
from sockguard._core.policy import Policy
from sockguard._engine import strangers
from sockguard._engine.registry import Registry
from sockguard._engine.strangers import FOREIGN_FOR, LATEST, SOONEST, Strangers
from sockguard._engine.terms import Terms
from sockguard._kernel.one_socket import read_cookie
from sockguard.errors import KernelUnavailable
from waiting import eventually

SOON = 3.0
"""Seconds in which a scan is always due, whatever the last one found."""


@pytest.fixture(autouse=True)
def _are_cheap(monkeypatch):
    """Scans are due by what they find, not by how long they take on this machine."""
    monkeypatch.setattr(strangers, "SHARE", math.inf)


class Searches:
    """Counts how often the descriptors of this process were searched for connections of one port."""

    def __init__(self, monkeypatch):
        self.count, self.port = 0, 0
        self._search, self._list = strangers.read_hung_up, strangers.read_sockets
        monkeypatch.setattr(strangers, "read_hung_up", self.search)
        monkeypatch.setattr(strangers, "read_sockets", self.list)

    def search(self, **how):
        self.count += 1
        return self._search(**how)

    def list(self, *what, **how):
        return [row for row in self._list(*what, **how) if row.local.port == self.port]


@pytest.fixture
def searches(monkeypatch):
    """As on a machine where nobody else leaks; tell it the port."""
    return Searches(monkeypatch)


def ended_by(d: Driven, sock: socket.socket) -> None:
    """Waits until the guard has ended a connection as its policy of 5 s says."""
    d.tick(SOON)
    assert state_of(sock) == CLOSE_WAIT
    d.tick(SOON)
    assert d.closed() == [("half_closed", "shut_down")]
    assert state_of(sock) != CLOSE_WAIT


# --- Found ---


def test_a_connection_that_was_passed_by_a_message_is_found():
    """SCM_RIGHTS: another process accepts, and hands the descriptor over; it is guarded as any other."""
    left, right = socket.socketpair()
    with left, right, connect() as c, driven(fin_timeout=5, leak_after=None) as d:
        socket.send_fds(left, [b"x"], [c.server.fileno()])
        c.server.close()
        _, [fd], *_ = socket.recv_fds(right, 1, 1)
        with socket.socket(fileno=fd) as passed:
            c.client.close()
            eventually(lambda: state_of(passed) == CLOSE_WAIT)
            d.tick(SOON)
            record = d.guard.registry.by_fd[fd]
            assert (record.is_server, record.site, record.has_object) == (True, None, False)
            d.tick(SOON)
            d.tick(SOON)
            assert d.closed() == [("half_closed", "shut_down")]
            assert state_of(passed) != CLOSE_WAIT


def test_a_connection_of_a_c_library_is_found_and_known_for_ours():
    """It was made by libc; that we connected is told by the kernel's counts."""
    libc = ctypes.CDLL(None, use_errno=True)
    with listen() as listener, driven(fin_timeout=5, leak_after=None) as d:
        fd = libc.socket(socket.AF_INET, socket.SOCK_STREAM, 0)
        host, port = listener.getsockname()
        address = struct.pack("=H", socket.AF_INET) + struct.pack("!H4s8x", port, socket.inet_aton(host))
        assert libc.connect(fd, address, len(address)) == 0
        with socket.socket(fileno=fd) as made:
            listener.accept()[0].close()
            eventually(lambda: state_of(made) == CLOSE_WAIT)
            d.tick(SOON)
            assert not d.guard.registry.by_fd[fd].is_server
            ended_by(d, made)


def test_a_stranger_is_reported_as_a_leak():
    """As any other, though without the line that opened it."""
    with vanished_peer() as c, driven(leak_after=5, fin_timeout=None) as d:
        for _ in range(4):
            d.tick(SOON)
        [leak] = d.told("leak_detected")
        assert (leak.fields["fd"], leak.fields["cause"], leak.fields["created_at"]) == (
            c.server.fileno(),
            "eof_unread",
            None,
        )


def test_one_that_was_somebody_elses_is_found_once_it_is_ours():
    """A connection can be passed on after its peer has hung up; for a while it is taken for another process's."""
    left, right = socket.socketpair()
    with left, right, vanished_peer() as c, driven() as d:
        socket.send_fds(left, [b"x"], [c.server.fileno()])
        c.server.close()  # now only the message holds it
        d.tick(SOON)
        assert d.guard.registry.by_fd == {}
        _, [fd], *_ = socket.recv_fds(right, 1, 1)
        with socket.socket(fileno=fd):
            d.tick(FOREIGN_FOR + SOON)
            assert fd in d.guard.registry.by_fd


def test_the_number_of_a_stranger_may_have_been_anothers():
    """A told leak was closed without our notice, and a stranger has its number: it is taken back, as closed."""
    with vanished_peer() as old, vanished_peer() as new, driven(leak_after=1, fin_timeout=None) as d:
        d.adopt(old.server)
        d.tick(SOON)
        d.tick(SOON)
        [first] = (e for e in d.told("leak_detected") if e.fields["fd"] == old.server.fileno())
        fd, cookie = old.server.fileno(), read_cookie(old.server)
        number = new.server.fileno()
        d.guard.registry.by_fd.pop(number)  # not seen yet
        os.dup2(number, fd)
        new.server.close()
        d.tick(SOON)
        assert d.guard.registry.by_fd[fd].cookie != cookie
        [cleared] = (e for e in d.told("leak_cleared") if e.fields["cookie"] == first.fields["cookie"])
        assert cleared.fields["how"] == "closed"


# --- Let be ---


def test_connections_of_other_processes_are_ignored(searches):
    """They are in the same list: asked for once, then known as somebody else's; nothing is said, nothing done."""
    with start_child() as child, driven(fin_timeout=1, leak_after=1) as d:
        child.do("listener = socket.create_server(('127.0.0.1', 0))")
        searches.port = port = int(child.ask("listener.getsockname()[1]"))
        client = socket.create_connection(("127.0.0.1", port))
        child.do("server, _ = listener.accept()")
        client.close()
        wait_for(port, state=CLOSE_WAIT, inode=True)
        for _ in range(3):
            d.tick(SOON)
        assert (d.guard.registry.by_fd, d.events) == ({}, [])
        assert searches.count == 1
        wait_for(port, state=CLOSE_WAIT, inode=True)


def test_what_waits_to_be_accepted_is_nobodys_yet(searches):
    """It has no descriptor; as soon as it has one, it is found."""
    with listen() as listener, driven(leak_after=None) as d:
        client = socket.create_connection(listener.getsockname())
        client.close()
        searches.port = port_of(listener)
        wait_for(searches.port, state=CLOSE_WAIT, inode=False)
        d.tick(SOON)
        assert (d.guard.registry.by_fd, searches.count) == ({}, 0)
        fd, _ = listener._accept()  # noqa: SLF001 - as a library in C would
        with socket.socket(fileno=fd):
            d.tick(SOON)
            assert fd in d.guard.registry.by_fd


def test_known_connections_are_not_searched_for(searches):
    """A sick connection that was announced costs no search."""
    with vanished_peer() as c, driven(fin_timeout=None, leak_after=None) as d:
        searches.port = port_of(c.server)
        d.adopt(c.server)
        for _ in range(3):
            d.tick(SOON)
        assert searches.count == 0


def test_a_connection_that_is_announced_late_is_the_announced_one():
    """Found by the list and then announced by its accept(): one record, that which knows the site; no ghost."""
    with vanished_peer() as c, driven(fin_timeout=5, leak_after=None) as d:
        d.guard.registry.after_fork(d.now)
        d.tick(SOON)
        assert d.guard.registry.by_fd[c.server.fileno()].site is None
        d.adopt(c.server)
        for _ in range(3):
            d.tick(SOON)
        assert d.guard.registry.by_fd[c.server.fileno()].site is not None
        assert d.closed() == [("half_closed", "shut_down")]
        assert len(d.told("connection_closed")) == 1


def test_a_second_descriptor_of_ours_is_no_childs():
    """One number is closed, a duplicate lives: after a fork that is still a connection of this process."""
    with vanished_peer() as c, driven(leak_after=2, fin_timeout=None) as d:
        d.adopt(c.server)
        d.tick()
        d.guard.registry.after_fork(d.now)
        with c.server.dup() as kept:
            c.server.close()
            for _ in range(4):
                d.tick(SOON)
            assert kept.fileno() in d.guard.registry.by_fd
            assert {leak.fields["fd"] for leak in d.told("leak_detected")} == {kept.fileno()}


def test_a_dead_connection_is_not_in_the_list():
    """After a reset there is nothing to find here: that is said in docs/explanation/limits.md."""
    with connect() as c, driven() as d:
        reset(c.client)
        eventually(lambda: state_of(c.server) == 7)
        d.tick(SOON)
        assert d.guard.registry.by_fd == {}


# --- How often ---


def test_scans_become_rarer_while_they_find_nothing():
    """From every half second to every two; after a find they are frequent again."""
    scan = Strangers(Registry()).scan_if_due
    assert scan(100) is not None
    assert scan(100 + SOONEST) is None  # twice that, by now
    now = 100 + 2 * SOONEST
    assert scan(now) is not None
    for _ in range(5):
        now += LATEST
        assert scan(now) is not None
    assert scan(now + LATEST / 2) is None
    with vanished_peer():
        assert len(scan(now + LATEST).strangers) == 1
        assert scan(now + LATEST + SOONEST) is not None


def test_scans_take_no_more_than_their_share_of_the_time(monkeypatch):
    """On a machine with very many sockets a scan takes long, and then they are rare."""
    monkeypatch.setattr(strangers, "SHARE", 1e-9)
    scan = Strangers(Registry()).scan_if_due
    assert scan(0) is not None
    assert scan(1000) is None


def refusing(monkeypatch, error: Exception) -> list[float]:
    """Has every scan fail, and counts them."""
    tried: list[float] = []

    def refuse():
        tried.append(1)
        raise error

    monkeypatch.setattr(strangers, "open_diag", refuse)
    return tried


def unavailable(number: int) -> KernelUnavailable:
    error = KernelUnavailable("netlink", "it is refused", "Allow it.")
    error.__cause__ = OSError(number, "no")
    return error


@pytest.mark.parametrize(
    ("error", "count"),
    [
        (unavailable(errno.EPERM), 1),
        (unavailable(errno.EMFILE), 3),
        (unavailable(errno.ENFILE), 3),
        (OSError(errno.ENOBUFS, "no"), 3),
    ],
)
def test_a_sandbox_is_asked_once_and_a_shortage_passes(monkeypatch, error, count):
    """Netlink that is refused stays refused; without a free descriptor it is tried again."""
    tried = refusing(monkeypatch, error)
    scan = Strangers(Registry()).scan_if_due
    assert [scan(now) for now in (0, 10, 20)] == [None] * 3
    assert len(tried) == count


def test_what_is_announced_and_not_admitted_yet_is_no_stranger():
    """With a budget for each tick a scan can come before its turn: its terms stay its own."""
    patient = Policy(half_close="allow", fin_timeout=None)
    with contextlib.ExitStack() as stack, driven(fin_timeout=5, leak_after=None) as d:
        ends = [stack.enter_context(vanished_peer()) for _ in range(3)]
        terms = [Terms(patient) for _ in ends]
        for c, its in zip(ends, terms, strict=True):
            d.guard.adopt(c.server, c.server, True, terms=its)
        for n in range(1, 60):
            d.guard.tick(d.now + n * 0.25, 1)
        assert [d.guard.registry.by_fd[c.server.fileno()].terms for c in ends] == terms
        assert d.closed() == []
