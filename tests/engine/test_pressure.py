"""Descriptors that run short, and accept queues that nobody works off: told once, and told anew."""

import contextlib
import math
import socket
import sys

import pytest

from children import start_child
from guarded import Driven, driven
from interpreters import run_program
from loopback import connect, listen, state_of, vanished_peer
from netstat import CLOSE_WAIT, wait_for
from servers import port_of
from sockguard._engine import pressure, strangers
from sockguard._engine.pressure import PRESSURE_FOR, DescriptorWatch

SOON = 3.0
"""Seconds in which a scan is always due."""


@pytest.fixture(autouse=True)
def _are_cheap(monkeypatch):
    """Scans are due by what they find, not by how long they take on this machine."""
    monkeypatch.setattr(strangers, "SHARE", math.inf)


# --- Descriptors ---


@pytest.fixture
def used(monkeypatch):
    """Sets how many of 100 descriptors are used."""
    count = [10]
    monkeypatch.setattr(pressure, "read_fd_count", lambda: count[0])
    monkeypatch.setattr(pressure, "read_fd_limit", lambda: 100)
    return count


def test_the_limit_is_near_from_four_fifths_on_and_until_it_is_well_below(used):
    """It is newly near once, also if the count goes up and down around the border."""
    watch = DescriptorWatch()
    seen = []
    for used[0] in (79, 80, 79, 81, 70, 69, 79, 80):
        seen.append((watch.check(), watch.is_pressing(0)))
    assert seen == [
        (False, False),
        (True, True),
        (False, True),
        (False, True),
        (False, True),
        (False, False),
        (False, False),
        (True, True),
    ]


def test_without_a_limit_it_is_never_near(monkeypatch):
    """`ulimit -n unlimited`."""
    monkeypatch.setattr(pressure, "read_fd_limit", lambda: None)
    watch = DescriptorWatch()
    assert (watch.check(), watch.is_pressing(0)) == (False, False)
    assert watch.used > 0


def test_without_proc_nothing_is_near(monkeypatch):
    """In a chroot nobody can count: that is no mistake of ours, and no number of descriptors is made up."""

    def no_proc():
        raise FileNotFoundError("/proc/self/fd")

    monkeypatch.setattr(pressure, "read_fd_count", no_proc)
    watch = DescriptorWatch()
    assert (watch.check(), watch.is_pressing(0), watch.used) == (False, False, None)
    with vanished_peer() as c, driven(fin_timeout=5) as d:
        d.adopt(c.server)
        for _ in range(5):
            d.tick(2)
        assert d.closed() == [("half_closed", "shut_down")]


def test_a_refused_accept_is_pressure_for_a_while(used):
    """Wherever the count stands: the limit that was hit may be the system's."""
    watch = DescriptorWatch()
    watch.refused_at = 100.0
    assert watch.is_pressing(100 + PRESSURE_FOR / 2)
    assert not watch.is_pressing(100 + PRESSURE_FOR)


def test_it_is_told_once_with_the_number_of_dead_connections(used):
    """One event while it lasts, and another one when it comes back."""
    with vanished_peer() as c, driven(fin_timeout=None, leak_after=None) as d:
        d.adopt(c.server)
        d.tick(2)
        used[0] = 90
        for _ in range(5):
            d.tick(2)
        [event] = d.told("fd_limit_near")
        assert (event.fields["fd_used"], event.fields["fd_limit"], event.fields["n_dead"]) == (90, 100, 1)
        used[0] = 10
        d.tick(2)
        used[0] = 90
        d.tick(2)
        assert len(d.told("fd_limit_near")) == 2


def test_what_has_hung_up_gets_less_time_under_pressure(used):
    """No more than a leak takes to be reported; the others keep theirs, and so do all where the policy says so."""
    with vanished_peer() as c, connect() as healthy, driven(fin_timeout=600, leak_after=5) as d:
        d.adopt(c.server)
        d.adopt(healthy.server)
        for _ in range(3):
            d.tick(2)
        assert d.closed() == []
        used[0] = 90
        d.tick(2)
        assert d.closed() == [("half_closed", "shut_down")]
        assert state_of(healthy.server) == 1


def test_no_hurry_where_the_policy_says_so(used):
    """shed_dead_on_accept=None: pressure changes nothing."""
    used[0] = 90
    with vanished_peer() as c, driven(fin_timeout=600, leak_after=5, shed_dead_on_accept=None) as d:
        d.adopt(c.server)
        for _ in range(5):
            d.tick(2)
        assert (state_of(c.server), d.closed(), d.guard.descriptors.sheds_dead) == (CLOSE_WAIT, [], False)


@pytest.mark.parametrize(
    ("fields", "calm", "pressed"),
    [
        ({}, False, True),
        ({"shed_dead_on_accept": "always"}, True, True),
        ({"shed_dead_on_accept": None}, False, False),
        ({"mode": "observe"}, False, False),
        ({"mode": "observe", "shed_dead_on_accept": "always"}, False, False),
    ],
)
def test_dead_connections_are_shed_when_the_policy_says_so(used, fields, calm, pressed):
    """Under pressure by default, always or never if wished, and never in `observe`."""
    with driven(**fields) as d:
        d.tick(2)
        assert d.guard.descriptors.sheds_dead is calm
        used[0] = 90
        d.tick(2)
        assert d.guard.descriptors.sheds_dead is pressed


RUNS_OUT = """
import asyncio, os, resource, socket, sys
import sockguard
guard = sockguard.install(fin_timeout=600, leak_after=0.5)
resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
kept = []

async def handle(reader, writer):
    kept.append(writer)
    if await reader.read(1):
        writer.write(b"served")
        return
    await asyncio.Event().wait()

def refuse(loop, context):
    if not refused:
        print("refused", flush=True)
    refused.append(context)

async def main():
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(refuse)
    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.readline)

refused = []
asyncio.run(main())
"""

FILLS = """
import socket, subprocess, sys
server = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
port = int(server.stdout.readline())
for _ in range(60):
    socket.create_connection(("127.0.0.1", port)).close()
assert server.stdout.readline() == "refused\\n"
with socket.create_connection(("127.0.0.1", port)) as client:
    client.settimeout(40)
    client.sendall(b"x")
    print(client.recv(6))
server.kill()
server.communicate()
"""


@pytest.mark.slow
def test_accept_works_again_after_the_descriptors_ran_out():
    """A server that keeps dead connections hits EMFILE; the guard has them closed, and the next client is served."""
    fills = FILLS.replace("sys.argv[1]", repr(RUNS_OUT))
    assert run_program(sys.executable, fills, timeout=90) == ["b'served'"]


# --- Accept queues ---


@contextlib.contextmanager
def waiting_at(listener: socket.socket):
    """Connects, so that somebody waits to be accepted."""
    with socket.create_connection(listener.getsockname()) as client:
        yield client


def stuck_at(d: Driven, listener: socket.socket) -> list[dict[str, object]]:
    """What was told of this listener."""
    host, port = listener.getsockname()
    return [dict(e.fields) for e in d.told("accept_queue_stuck") if e.fields["local"] == f"{host}:{port}"]


def test_a_stuck_queue_is_told_once_and_anew_when_it_is_stuck_again():
    """One and the same connection waits for longer than `leak_after`; with how many wait, and how many are gone."""
    with listen(backlog=5) as listener, driven(leak_after=10) as d, waiting_at(listener), waiting_at(listener) as gone:
        gone.close()
        wait_for(port_of(listener), state=CLOSE_WAIT)
        for _ in range(4):
            d.tick(SOON)
        assert stuck_at(d, listener) == []
        for _ in range(8):
            d.tick(SOON)
        [told] = stuck_at(d, listener)
        assert (told["queued"], told["queued_close_wait"], told["backlog"]) == (2, 1, 5)
        assert 10 <= told["seconds"] < 10 + 2 * SOON
        for _ in range(2):
            listener.accept()[0].close()
        d.tick(SOON)
        with waiting_at(listener):
            for _ in range(8):
                d.tick(SOON)
            assert len(stuck_at(d, listener)) == 2


def test_it_is_told_anew_although_the_queue_was_never_empty():
    """It was worked off and is stuck again: another connection, another story."""
    with listen() as listener, driven(leak_after=10) as d, contextlib.ExitStack() as stack:
        stack.enter_context(waiting_at(listener))
        for _ in range(8):
            d.tick(SOON)
        assert len(stuck_at(d, listener)) == 1
        stack.enter_context(waiting_at(listener))
        listener.accept()[0].close()
        for _ in range(8):
            d.tick(SOON)
        assert len(stuck_at(d, listener)) == 2


def test_a_busy_queue_is_silent():
    """It is never empty, and nobody stays in it for long."""
    with listen() as listener, driven(leak_after=10) as d, contextlib.ExitStack() as stack:
        stack.enter_context(waiting_at(listener))
        for _ in range(20):
            stack.enter_context(waiting_at(listener))
            stack.enter_context(listener.accept()[0])
            d.tick(SOON)
        assert stuck_at(d, listener) == []


def test_queues_of_other_processes_are_their_affair():
    """They are in the kernel's list as well."""
    with start_child() as child, driven(leak_after=5) as d:
        child.do("listener = socket.create_server(('127.0.0.1', 0))")
        port = int(child.ask("listener.getsockname()[1]"))
        with socket.create_connection(("127.0.0.1", port)):
            for _ in range(6):
                d.tick(SOON)
        assert [e for e in d.told("accept_queue_stuck") if e.fields["local"] == f"127.0.0.1:{port}"] == []


def test_a_queue_may_wait_for_ever_where_the_policy_says_so():
    """leak_after=None turns reports off, this one too."""
    with listen() as listener, driven(leak_after=None) as d, waiting_at(listener):
        for _ in range(8):
            d.tick(100)
        assert stuck_at(d, listener) == []


def test_a_full_queue_sheds_dead_connections():
    """Near the limit of descriptors or not: whoever is dead takes the place of the living there."""
    with listen(backlog=1) as listener, driven() as d, waiting_at(listener), waiting_at(listener):
        wait_for(port_of(listener), state=10, recv_queue=2)
        d.tick(SOON)
        d.tick(SOON)
        assert d.guard.descriptors.sheds_dead
        for _ in range(2):
            listener.accept()[0].close()
        d.tick(SOON)
        d.tick(SOON)
        assert not d.guard.descriptors.sheds_dead
