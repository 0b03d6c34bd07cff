"""What this process has closed and a child keeps: recognised, reported with its holder, and ended."""

import contextlib
import math
import os
import socket
import sys

import pytest

from children import start_child
from guarded import driven
from interpreters import PATIENT, run_program
from loopback import connect, state_of
from netstat import CLOSE_WAIT, wait_for
from servers import port_of
from sockguard._engine import ghosts, strangers
from waiting import eventually

SOON = 3.0
"""Seconds in which a scan is always due."""


@pytest.fixture(autouse=True)
def _are_cheap(monkeypatch):
    """Scans are due by what they find, not by how long they take on this machine."""
    monkeypatch.setattr(strangers, "SHARE", math.inf)


class Kept:
    """A connection that a child has inherited by exec, and that we have closed."""

    def __init__(self, d, child, client, port, fd):
        self.driven, self.child, self.client, self.port, self.fd = d, child, client, port, fd

    @property
    def holder(self) -> str:
        return f"process {self.child.pid} (fd {self.fd})"

    def is_close_wait(self) -> bool:
        return self.child.ask("kept.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]") == str(CLOSE_WAIT)


@contextlib.contextmanager
def kept_by_child(**policy):
    """A guard that knew the connection when the child got it; its client has hung up, half or wholly."""
    with connect() as c, driven(**policy) as d:
        d.adopt(c.server)
        d.tick()
        d.guard.registry.after_fork(d.now)
        fd, port = c.server.fileno(), port_of(c.server)
        with start_child(pass_fds=[fd]) as child:
            child.do(f"kept = socket.socket(fileno={fd})")
            c.server.close()  # its object lives on, as it does in many a program
            d.tick()
            c.client.shutdown(socket.SHUT_WR)
            wait_for(port, remote_port=port_of(c.client), state=CLOSE_WAIT, inode=True)
            yield Kept(d, child, c.client, port, fd)


def test_it_is_reported_as_shared_and_ended():
    """One leak that names the holder; then a shutdown through the child's own descriptor, which stays open."""
    with kept_by_child(fin_timeout=10, leak_after=5) as kept:
        d = kept.driven
        for _ in range(3):
            d.tick(SOON)
        [leak] = d.told("leak_detected")
        assert (leak.fields["cause"], leak.fields["holders"]) == ("shared", (kept.holder,))
        assert leak.fields["local"] == f"127.0.0.1:{kept.port}"
        assert kept.is_close_wait()
        for _ in range(3):
            d.tick(SOON)
        assert d.closed() == [("half_closed", "shut_down")]
        [closed] = d.told("connection_closed")
        assert closed.fields["owner"] == f"closed here, kept by {kept.holder}"
        assert len(d.told("leak_detected")) == 1
        assert kept.client.recv(1) == b""
        assert not kept.is_close_wait()
        assert kept.child.ask("kept.recv(1)") == "b''"


def test_observe_only_says_so():
    """It stays as it is, and is told of once."""
    with kept_by_child(mode="observe", fin_timeout=4, leak_after=None) as kept:
        for _ in range(5):
            kept.driven.tick(SOON)
        [closed] = kept.driven.told("connection_closed")
        assert "Would have closed" in closed.message
        assert kept.is_close_wait()


def test_a_child_that_serves_it_is_left_alone():
    """It answers a client that has half-closed: what the client acknowledges is progress, whoever sent it."""
    with kept_by_child(fin_timeout=5, leak_after=4) as kept:
        for _ in range(6):
            kept.child.do("kept.send(b'more')")
            assert kept.client.recv(4) == b"more"
            eventually(lambda: kept.child.ask("kept.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 28)[24:]") != "x")
            kept.driven.tick(SOON)
        assert (kept.driven.closed(), kept.driven.told("leak_detected")) == ([], [])
        assert kept.is_close_wait()


def test_one_that_the_child_closes_is_forgotten():
    """The repaired program is silent."""
    with kept_by_child(fin_timeout=5, leak_after=4) as kept:
        kept.driven.tick(SOON)
        kept.child.do("kept.close()")
        wait_for(kept.port, state=CLOSE_WAIT, count=0)
        for _ in range(5):
            kept.driven.tick(SOON)
        assert kept.driven.told("leak_detected") + kept.driven.told("connection_closed") == []


def test_nothing_is_reported_where_the_policy_says_so():
    """leak_after=None and half_close="allow": the connection is merely looked at."""
    with kept_by_child(half_close="allow", leak_after=None) as kept:
        for _ in range(30):
            kept.driven.tick(SOON)
        assert kept.driven.told("leak_detected") + kept.driven.told("connection_closed") == []


@pytest.mark.parametrize("error", [PermissionError(1, "no"), ProcessLookupError(3, "gone")])
def test_a_holder_that_lends_nothing_is_told_of_once(monkeypatch, error):
    """Without the right to borrow it nothing is ended, and nothing is said to have been; the leak is told once."""

    @contextlib.contextmanager
    def refuse(*_):
        raise error
        yield

    monkeypatch.setattr(ghosts, "borrow_socket", refuse)
    with kept_by_child(fin_timeout=5, leak_after=4) as kept:
        for _ in range(20):
            kept.driven.tick(SOON)
        assert kept.driven.closed() == []
        assert len(kept.driven.told("leak_detected")) == 1
        assert kept.is_close_wait()


def test_another_connection_under_the_number_of_the_child_is_not_touched(monkeypatch):
    """Between the look and the act the child has put another connection there: its cookie says so."""
    with connect() as other, kept_by_child(fin_timeout=5, leak_after=None) as kept:
        original = ghosts.borrow_socket

        @contextlib.contextmanager
        def exchange(pid, fd):
            with original(os.getpid(), other.server.fileno()) as sock:
                yield sock

        monkeypatch.setattr(ghosts, "borrow_socket", exchange)
        for _ in range(6):
            kept.driven.tick(SOON)
        assert state_of(other.server) == 1
        assert kept.driven.closed() == []


def test_what_was_opened_after_the_fork_is_no_childs():
    """However many connections come and go since, those that a child can hold are remembered."""
    with connect() as c, driven() as d:
        record = d.adopt(c.server)
        d.tick()
        registry = d.guard.registry
        registry.after_fork(d.now)
        registry.forget(record)
        d.now += 1
        with connect() as later:
            newer = d.adopt(later.server)
            d.tick()
            registry.forget(newer)
        assert (registry.ghost(newer.cookie), registry.ghost(record.cookie)) == (None, record)


FORKS = """
import os, signal, socket, sockguard, time
guard = sockguard.install(fin_timeout=1, leak_after=None)
told = []
sockguard._process.running.teller.add_listener(told.append)
listener = socket.create_server(("127.0.0.1", 0))
client = socket.create_connection(listener.getsockname())
server, _ = listener.accept()
while guard.registry.by_fd.get(server.fileno()) is None or guard.registry.by_fd[server.fileno()].cookie is None:
    time.sleep(0.01)
pid = os.fork()
if not pid:
    if {uninstalls}:
        sockguard.uninstall()
    {keeps}
    os._exit(0)
fd = server.fileno()
server.close()
client.shutdown(socket.SHUT_WR)
client.settimeout(20)
print(client.recv(1))
give_up_at = time.monotonic() + 20
while not told and time.monotonic() < give_up_at:
    time.sleep(0.01)
print(told[-1].name, told[-1].fields["owner"] == f"closed here, kept by process {{pid}} (fd {{fd}})")
os.kill(pid, signal.SIGKILL)
os.waitpid(pid, 0)
client.close()
listener.close()
"""
SLEEPS = "time.sleep(60)"
EXECUTES = "server.set_inheritable(True); os.execv('/bin/sleep', ['sleep', '60'])"


@pytest.mark.slow
@pytest.mark.parametrize(("uninstalls", "keeps"), [(True, SLEEPS), (False, EXECUTES)], ids=["fork", "exec"])
def test_a_forked_child_that_keeps_it_is_found_out(uninstalls, keeps):
    """The whole guard: a child without one keeps what the parent closes, and the peer hears its end."""
    program = PATIENT + FORKS.format(uninstalls=uninstalls, keeps=keeps)
    assert run_program(sys.executable, program, timeout=60) == ["b''", "connection_closed True"]
