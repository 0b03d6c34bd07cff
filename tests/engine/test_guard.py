"""The whole guard in programs of their own: forks, closed descriptors, and failures of its own that reach nobody."""

import asyncio
import operator
import socket
import sys
import threading

import pytest

from guarded import driven
from interpreters import PATIENT, run_program
from loopback import connect, listen, vanished_peer
from sockguard._core.books import Books
from sockguard._core.policy import Policy
from sockguard._engine import guard as module
from sockguard._engine.failures import MAX_FAILURES
from sockguard._engine.guard import Guard
from sockguard._engine.terms import Terms
from sockguard.adapters import stdlib
from sockguard.adapters.wrapping import Wrappings
from waiting import eventually

# Read by each program below.
TOOLS = """
import os, signal, socket, socketserver, sys, threading, time
import sockguard

def vanished(listener):
    "A connection whose client has hung up, and its server socket."
    client = socket.create_connection(listener.getsockname())
    server, _ = listener.accept()
    client.close()
    return server

def state_of(sock):
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]

def eventually(predicate, seconds=20):
    give_up_at = time.monotonic() + seconds
    while not predicate():
        if time.monotonic() > give_up_at:
            return False
        time.sleep(0.01)
    return True

def is_ended(sock):
    return eventually(lambda: state_of(sock) not in (1, 8))

def failures():
    return [e.message for _, e in sockguard._process.running.teller.recent if e.name == "guard_failed"]
"""


def run(program: str, *, timeout: float = 60.0) -> list[str]:
    """Runs a program with these tools; it must not warn."""
    return run_program(sys.executable, PATIENT + TOOLS + program, timeout=timeout)


# --- Forks ---

BOTH = """
guard = sockguard.install(fin_timeout=0.5, leak_after=None)
with socket.create_server(("127.0.0.1", 0)) as listener:
    old = vanished(listener)
    pid = os.fork()
    who = "parent" if pid else "child"
    new = vanished(listener)
    seen = is_ended(old) and is_ended(new)
    mine = {r.cookie for r in guard.registry.records()}
    if pid:
        assert os.waitpid(pid, 0)[1] == 0
    print(who, seen, len(mine), failures(), flush=True)
    old.close()
    new.close()
"""


@pytest.mark.slow
def test_parent_and_child_both_go_on():
    """Each ends what is its own, and what it holds from before the fork."""
    assert run(BOTH) == ["child True 2 []", "parent True 2 []"]


APART = """
guard = sockguard.install(fin_timeout=0.5, leak_after=None)
with socket.create_server(("127.0.0.1", 0)) as listener:
    pid = os.fork()
    if pid:
        # Whatever the child watches by its numbers, the parent has its own files there.
        assert os.waitpid(pid, 0)[1] == 0
        with vanished(listener) as sock:
            print(is_ended(sock), failures(), guard.registry.by_fd.keys() == {sock.fileno()})
    else:
        for _ in range(50):
            vanished(listener).close()
        with vanished(listener) as sock:
            os._exit(not is_ended(sock) or bool(failures()))
"""


@pytest.mark.slow
def test_the_parent_does_not_hear_of_the_childs_connections():
    """An epoll set is inherited as the very same one: the child makes its own before it puts anything in."""
    assert run(APART) == ["True [] True"]


FORKING = """
sockguard.install(fin_timeout=1, leak_after=None)

class Handler(socketserver.BaseRequestHandler):
    def handle(self):
        asked = self.request.recv(10)
        if asked == b"slow":
            time.sleep(1.5)  # several ticks, and longer than fin_timeout
            self.request.sendall(b"answer")
        else:
            threading.Event().wait(30)  # forgets about it

with socketserver.ForkingTCPServer(("127.0.0.1", 0), Handler) as server:
    server.block_on_close = False
    pids = []
    def ask(what, then):
        client = socket.create_connection(server.server_address)
        client.settimeout(20)
        client.sendall(what)
        then(client)
        server.handle_request()
        pids.extend(server.active_children)
        return client
    with ask(b"slow", lambda client: None) as client:
        print(client.recv(10))
    with ask(b"leak", lambda client: client.shutdown(socket.SHUT_WR)) as client:
        print(client.recv(10))
    print(failures())
    for pid in server.active_children or ():
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
"""


@pytest.mark.slow
def test_a_forking_server_keeps_its_requests():
    """The parent accepts and closes, the child serves: it is guarded in the child, and not dropped there."""
    assert run(FORKING) == ["b'answer'", "b''", "[]"]


AGAIN = """
sockguard.install(fin_timeout=0.5, leak_after=None)
with socket.create_server(("127.0.0.1", 0)) as listener, vanished(listener) as old:
    def generation(n):
        if n == 3:
            with vanished(listener) as new:
                os._exit(not (is_ended(old) and is_ended(new)) or bool(failures()))
        pid = os.fork()
        if not pid:
            generation(n + 1)
        status = os.waitpid(pid, 0)[1]
        if n:
            os._exit(status != 0)
        print(status, failures())
    generation(0)
"""


def test_forks_of_two_threads_leave_the_guard_running():
    """The one that comes second finds the thread stopped already, and both go on with one."""
    with driven() as d:
        d.guard.start()
        d.guard.before_fork()
        d.guard.before_fork()
        d.guard.after_fork_in_parent()
        assert not d.guard.driver.is_running
        d.guard.after_fork_in_parent()
        assert d.guard.driver.is_running


def test_a_fork_while_the_policy_changes_leaves_the_guard_running(monkeypatch):
    """Neither the fork nor the change takes the other's rest for the end."""
    with driven() as d:
        d.guard.start()
        follow = d.guard._follow  # noqa: SLF001

        def fork_meanwhile(policy):
            d.guard.before_fork()
            return follow(policy)

        monkeypatch.setattr(d.guard, "_follow", fork_meanwhile)
        d.guard.change_policy(Policy(idle_timeout=7))
        assert not d.guard.driver.is_running
        d.guard.after_fork_in_parent()
        assert d.guard.driver.is_running


def test_what_fails_after_a_fork_does_not_keep_the_guard_from_going_on(monkeypatch):
    """What a hook of os.fork() raises is printed, and nobody comes back for it."""
    with driven() as d:
        d.guard.start()
        d.guard.before_fork()
        monkeypatch.setattr(d.guard.registry, "after_fork", raising)
        with pytest.raises(ZeroDivisionError):
            d.guard.after_fork_in_parent()
        assert d.guard.driver.is_running


def test_a_fork_waits_for_the_tick_of_another_thread():
    """One that a selector drives: what was opened is enlisted by one thread at a time."""
    with driven() as d, connect() as c:
        d.guard.adopt(c.server, c.server, True)
        with d.guard._ticking:  # noqa: SLF001 - that moment, held still
            forking = threading.Thread(target=d.guard.after_fork_in_parent)
            forking.start()
            forking.join(0.1)
            assert len(d.guard.registry.opened) == 1
        forking.join()
        assert (len(d.guard.registry.opened), len(d.guard.registry.by_fd)) == (0, 1)


@pytest.mark.slow
def test_a_child_of_a_child_is_guarded_too():
    """Daemons fork twice; the guard comes along each time."""
    assert run(AGAIN) == ["0 []"]


# --- Descriptors that the program closes ---

CLOSES = """
guard = sockguard.install(fin_timeout=0.5, leak_after=None)
listener = socket.create_server(("127.0.0.1", 0))
lost = [vanished(listener) for _ in range(3)]
{before}
for sock in (listener, *lost):
    sock.detach()
os.closerange(3, 1000)
# What is opened now gets the numbers that the guard had.
files = [open("/etc/passwd", "rb", buffering=0) for _ in range(10)]
pairs = [socket.socketpair() for _ in range(10)]
listener = socket.create_server(("127.0.0.1", 0))
with vanished(listener) as sock:
    print(is_ended(sock))
time.sleep(0.6)
for file in files:
    assert file.read(1) == b"r", file
    file.close()
for left, right in pairs:
    left.send(b"x")
    assert right.recv(1) == b"x"
    left.close()
    right.close()
with vanished(listener) as sock:
    print(is_ended(sock), failures())
listener.close()
sockguard.uninstall()
print(os.listdir("/proc/self/fd"))
"""


@pytest.mark.slow
@pytest.mark.parametrize("before", ["", "time.sleep(0.6)"], ids=["before a tick", "after some ticks"])
def test_closing_all_descriptors_neither_stops_the_guard_nor_harms_the_program(before):
    """closerange(3, N), as a daemon does: files that get the guard's numbers are let be, and it makes itself anew."""
    assert run(CLOSES.format(before=before)) == ["True", "True []", "['0', '1', '2', '3']"]


# --- Failures of our own ---


@pytest.fixture
def wrapped():
    """A guard that is driven by hand, with accept() and connect() of this process adopting into it."""
    wrappings = Wrappings()
    with driven() as d:
        for hook in stdlib.hooks(d.guard):
            wrappings.add(hook)
        try:
            yield d
        finally:
            wrappings.undo()


def raising(*_):
    raise ZeroDivisionError("a mistake of ours")


@pytest.mark.parametrize("door", ["capture", "capture_at", "running_loop", "_ref"])
def test_nothing_of_ours_reaches_accept_or_connect(wrapped, monkeypatch, door):
    """Whatever fails in there, connections are opened as ever, and it is told, with the line."""
    monkeypatch.setattr(module, door, raising)
    with connect() as c:
        c.client.send(b"x")
        assert c.server.recv(1) == b"x"
    told = wrapped.told("guard_failed")
    assert told
    assert {event.fields["error"] for event in told} == {"ZeroDivisionError: a mistake of ours"}
    assert all(str(event.fields["where"]).startswith("adopt, test_guard.py:") for event in told)


def test_failures_are_counted_and_the_first_few_told(wrapped, monkeypatch):
    """A guard that fails at each connection must not fill a disk."""
    monkeypatch.setattr(module, "_ref", raising)
    with listen() as listener:
        for _ in range(MAX_FAILURES):
            with socket.create_connection(listener.getsockname()):
                listener.accept()[0].close()
    assert len(wrapped.told("guard_failed")) == MAX_FAILURES
    assert wrapped.guard.failed.count == 2 * MAX_FAILURES


def test_a_tick_that_fails_is_told_and_the_next_one_works(monkeypatch):
    """The guard survives its own mistakes."""
    with vanished_peer() as c, driven(fin_timeout=5, leak_after=None) as d:
        d.adopt(c.server)
        with monkeypatch.context() as patch:
            patch.setattr("sockguard._engine.sweep.read_cookie", raising)
            d.guard.tick(d.now)
        [failure] = d.told("guard_failed")
        assert failure.fields["where"].startswith("tick, test_guard.py:")
        d.events.clear()
        for _ in range(4):
            d.tick(3)
        assert d.closed() == [("half_closed", "shut_down")]


PARTS = [
    "_sweep._peers.drain", "_sweep._strangers.scan_if_due", "_sweep._established.scan_if_due",
    "_sweep.descriptors.check", "stalls.check", "_stamped.run", "hearts.run", "lingering.run", "_control.poll",
    "_on_tick",
]  # fmt: skip


@pytest.mark.parametrize("broken", PARTS)
def test_a_part_of_a_tick_that_fails_does_not_keep_the_others_from_their_work(monkeypatch, broken):
    """What is wrong with one of them is told, and all the others are as useful as ever."""
    with connect() as c, driven(idle_timeout=100) as d:
        d.adopt(c.server)
        d.guard._on_tick = lambda _: None  # noqa: SLF001
        d.tick()
        seen = []
        for part in PARTS:
            owner, _, name = part.rpartition(".")
            owner = operator.attrgetter(owner)(d.guard) if owner else d.guard

            def run(*args, part=part, genuine=getattr(owner, name)):
                seen.append(part)
                return genuine(*args) if part != broken else raising()

            monkeypatch.setattr(owner, name, run)
        d.guard.tick(d.now + 2)
        assert sorted(seen) == sorted(PARTS)
        assert [event.fields["error"] for event in d.told("guard_failed")] == ["ZeroDivisionError: a mistake of ours"]


def test_no_thread_after_a_fork_is_told(monkeypatch):
    """The program forks on; what a hook of os.fork() raises, Python would print."""
    with driven() as d:
        d.guard.start()
        d.guard.before_fork()
        monkeypatch.setattr("sockguard._engine.driver._start_thread", lambda *_: raising_runtime())
        d.guard.after_fork_in_parent()
        [failure] = d.told("guard_failed")
        assert failure.fields["where"].startswith("fork, ")


def raising_runtime():
    raise RuntimeError("can't start new thread")


def test_stand_ins_of_sockets_are_no_connections():
    """Tests of a program put mocks in the place of sockets; they are passed over without a word."""
    with driven() as d:
        d.guard.adopt(object(), object(), True)
        d.tick()
        assert (d.guard.registry.by_fd, d.events) == ({}, [])


def test_a_transport_that_cannot_be_referred_to_is_passed_over():
    """A class without weak references: only the kernel's list will tell of its connection."""

    class Transport:
        __slots__ = ()

    async def adopt(d):
        d.guard.adopt_transport(Transport(), asyncio.get_running_loop(), True)

    with driven() as d:
        asyncio.run(adopt(d))
        d.tick()
        assert (d.guard.registry.by_fd, d.events) == ({}, [])


def test_a_transport_that_fails_is_told_of():
    """Nothing of it reaches the loop."""
    with driven() as d:
        d.guard.stalls.loop_ref = raising

        class Transport:
            pass

        d.guard.adopt_transport(Transport(), object(), True)
        [failure] = d.told("guard_failed")
        assert failure.fields["where"].startswith("adopt_transport, ")


def test_a_guard_without_an_end_of_its_own_can_be_left():
    """As a context manager it does what it was given to do, once, and nothing where it was given nothing."""
    ends: list[str] = []
    guard = Guard(Policy(), lambda *_: None)
    guard.on_exit = lambda: ends.append("over")
    with guard:
        pass
    guard.stop()
    with Guard(Policy(), lambda *_: None) as guard:
        pass
    guard.stop()
    assert ends == ["over"]


def make_terms(*, books):
    """Explicit terms, as of a wrapper, with books of its own or without."""
    return Terms(None, books=Books(0.0)) if books else Terms(None)


def waiting(guard):
    """Counts what was opened since the last tick."""
    return len(guard.registry.opened), len(guard._stamped.records.opened)  # noqa: SLF001


@pytest.mark.parametrize("books", [False, True])
def test_a_guard_that_is_stopped_takes_nothing_in(books):
    """A program may keep what was wrapped, and call it for ever; nobody would take out what piles up there."""
    with driven() as d, connect() as c:
        d.guard.adopt(c.server, c.server, True, terms=make_terms(books=books))
        d.guard.stop()
        assert waiting(d.guard) == (0, 0)
        d.guard.adopt(c.client, c.client, False, terms=make_terms(books=books))
        assert waiting(d.guard) == (0, 0)
        assert not d.guard._sweep.is_open  # noqa: SLF001 - it takes no descriptors either
        assert not d.events


@pytest.mark.parametrize("books", [False, True])
def test_a_guard_that_is_started_again_takes_connections_in(books):
    """As if it had never been stopped."""
    with driven() as d, connect() as c:
        d.guard.stop()
        d.guard.start()
        d.guard.driver.stop()
        d.guard.adopt(c.server, c.server, True, terms=make_terms(books=books))
        assert waiting(d.guard) == ((0, 1) if books else (1, 0))
        d.tick()
        assert (len(d.guard.registry.by_fd), len(d.guard._stamped.records)) == ((0, 1) if books else (1, 0))  # noqa: SLF001


def test_a_guard_that_is_stopped_has_nothing_closed_at_accept():
    """Nor does it tell of it: the program goes on as without a guard, until that is started again."""
    with driven(shed_dead_on_accept="always") as d:
        assert d.guard.descriptors.sheds_dead
        d.guard.stop()
        assert not d.guard.descriptors.sheds_dead
        d.guard.start()
        assert d.guard.descriptors.sheds_dead


def test_a_start_loses_nothing_that_was_opened_before_it():
    """Such as by a guard that a selector drives, when somebody comes who needs a thread."""
    with driven() as d, connect() as c:
        d.guard.adopt(c.server, c.server, True)
        d.guard.start()
        d.guard.start()
        eventually(lambda: c.server.fileno() in d.guard.registry.by_fd)


def test_the_end_of_a_tick_is_told():
    """Outputs tell then what they have withheld."""
    seen: list[float] = []
    guard = Guard(Policy(), lambda *_: None, on_tick=seen.append)
    guard.tick(7.0)
    guard.stop()
    assert seen == [7.0]
