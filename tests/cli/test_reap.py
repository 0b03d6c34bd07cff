"""`sockguard reap`: it ends leaked connections of any process, loses no byte, and never hits a living one."""

import fcntl
import os
import re
import socket
from collections.abc import Iterator

import pytest

from children import Child, start_child
from commands import AS_NOBODY, PATIENT, needs_root, only_leak, refusing, report, run
from netstat import CLOSE_WAIT, FIN_WAIT2, rows, wait_for
from servers import LANGUAGES, port_of, teach
from sockguard._core.facts import Holder, SocketFacts
from sockguard._core.leaks import find_leaks
from sockguard._kernel.ending import NotTheSame, StillAlive, destroy_unaccepted, shut_down
from sockguard._kernel.linux import look_at_processes
from sockguard._kernel.pidfd import borrow_socket
from sockguard._kernel.proc_pid import read_stat
from waiting import eventually

pytestmark = [pytest.mark.slow, pytest.mark.one_python]

UNREAD = bytes(range(256)) * 40


def reap(pid: int, *words: object, prefix: tuple[str, ...] | None = None) -> dict:
    """Reaps all that has stood still for a moment; gives what it says, with the exit status."""
    outcome = run("reap", "--json", "--pid", pid, "--older-than", 0, *words, **({"prefix": prefix} if prefix else {}))
    return {"status": outcome.status, "err": outcome.err, **outcome.json}


def outcomes(found: dict) -> list[tuple[str, str]]:
    return [(row["outcome"], row["cause"]) for row in found["results"]]


def descriptor_flags(pid: int, fd: int) -> int:
    """Reads the flags of an open file of another process, O_NONBLOCK among them."""
    with open(f"/proc/{pid}/fdinfo/{fd}", encoding="ascii") as file:
        return int(re.search(r"flags:\s+(\d+)", file.read()).group(1), 8)


# A dry run, and the real thing, on servers in three languages


def test_dry_run_changes_nothing(start_server):
    """Without --yes it says what it would do, exits with 1, and the connections stay as they are."""
    server = start_server("python", "unread")
    with server.half_close() as one, server.half_close() as two:
        before = rows(server.port)
        found = reap(server.pid)
        text = run("reap", "--pid", server.pid, "--older-than", 0)
        assert rows(server.port) == before
        for client in (one, two):
            client.settimeout(0)
            with pytest.raises(BlockingIOError):
                client.recv(1)
    assert (found["status"], found["acted"], outcomes(found)) == (1, False, [("would end", "unread")] * 2)
    assert text.status == 1
    assert "Dry run: nothing was done." in text.out


@pytest.mark.parametrize("mode", ["unread", "eof_unread", "eof_ignored"])
@pytest.mark.parametrize("language", LANGUAGES)
def test_ends_the_leak_of_a_server(start_server, language, mode):
    """With --yes the peer sees our FIN; the descriptor stays open in its owner; nothing is left to report but that."""
    server = start_server(language, mode)
    with server.half_close() as client:
        leak = only_leak(server.pid)
        flags = descriptor_flags(server.pid, leak["fd"])
        found = reap(server.pid, "--yes")
        client.settimeout(10)
        assert client.recv(1) == b""
        assert os.readlink(f"/proc/{server.pid}/fd/{leak['fd']}") == f"socket:[{leak['inode']}]"
        assert descriptor_flags(server.pid, leak["fd"]) == flags
    assert (found["status"], found["acted"], outcomes(found)) == (0, True, [("ended", mode)])
    assert [row["cookie"] for row in found["results"]] == [leak["cookie"]]
    assert not [row for row in rows(server.port) if row.state == CLOSE_WAIT]


@pytest.mark.parametrize("language", LANGUAGES)
def test_loses_no_byte_of_what_the_peer_sent(start_server, language):
    """What waits unread when the connection is ended can be read by its owner afterwards, byte by byte."""
    server = start_server(language, "unread")
    with server.half_close(UNREAD) as client:
        assert outcomes(reap(server.pid, "--yes")) == [("ended", "unread")]
        client.settimeout(10)
        assert client.recv(1) == b""
        assert server.read_rest() == UNREAD


def test_says_in_text_what_it_did_and_what_remains(start_server):
    """The text has a line for each connection, and says that the descriptor stays with its owner."""
    server = start_server("python", "eof_unread")
    with server.half_close() as client:
        outcome = run("reap", "--pid", server.pid, "--older-than", 0, "--yes")
        peer = f"127.0.0.1:{port_of(client)}"
    first, *_, last = outcome.out.splitlines()
    assert first.startswith(f"ended: pid {server.pid} fd ")
    assert peer in first
    assert "eof_unread: FIN sent" in first
    assert "its descriptor stays open in its owner" in last
    assert (outcome.status, outcome.err) == (0, "")


def test_what_was_ended_is_a_dead_descriptor_afterwards(start_server):
    """Afterwards the report names the descriptor that only its owner can close, and reap refuses it."""
    server = start_server("python", "eof_unread")
    with server.half_close():
        assert outcomes(reap(server.pid, "--yes")) == [("ended", "eof_unread")]
        wait_for(server.port, count=0, state=CLOSE_WAIT)
        assert eventually(lambda: report(server.pid)["leaks"])[0]["cause"] == "dead_fd"
        again = reap(server.pid, "--yes")
    assert (again["status"], outcomes(again)) == (1, [("refused", "dead_fd")])


def test_ends_shared_connections_at_once():
    """A connection that two processes hold is ended for both by one shutdown."""
    with socket.create_server(("127.0.0.1", 0)) as listener, start_child() as child:
        child.do(f"import subprocess; client = socket.create_connection({listener.getsockname()!r})")
        child.do("helper = subprocess.Popen(['cat'], stdin=subprocess.PIPE, pass_fds=[client.fileno()])")
        try:
            server, (_, port) = listener.accept()
            with server:
                server.shutdown(socket.SHUT_WR)
                wait_for(port, state=CLOSE_WAIT)
                assert outcomes(reap(int(child.ask("helper.pid")), "--yes")) == [("ended", "stale_client")]
                server.settimeout(10)
                assert server.recv(1) == b""
        finally:
            child.do("helper.stdin.close(); helper.wait()")


# What it chooses


def test_only_what_is_old_enough(start_server):
    """By default a connection must have stood still for 60 s; a younger one is no candidate."""
    server = start_server("python", "unread")
    with server.half_close():
        outcome = run("reap", "--pid", server.pid, "--yes")
        assert (outcome.status, outcome.out) == (0, "Nothing to end: no leak is that old.\n")
        assert len(rows(server.port)) == 2
        assert only_leak(server.pid)["cause"] == "unread"


def test_only_the_causes_asked_for():
    """--cause narrows the choice; the others are neither ended nor counted as left."""
    with start_child() as child:
        teach(
            child,
            """
            listener = socket.create_server(("127.0.0.1", 0))
            port = listener.getsockname()[1]
            clients = [socket.create_connection(listener.getsockname()) for _ in range(2)]
            servers = [listener.accept()[0] for _ in range(2)]
            clients[0].sendall(b"unread")
            for client in clients:
                client.shutdown(socket.SHUT_WR)
            """,
        )
        port = int(child.ask("port"))
        wait_for(port, count=2, state=CLOSE_WAIT)
        found = reap(child.pid, "--yes", "--cause", "eof_unread")
        assert (found["status"], outcomes(found)) == (0, [("ended", "eof_unread")])
        left = wait_for(port, state=CLOSE_WAIT)
        assert left[0].recv_queue == 7
        found = reap(child.pid, "--yes", "--cause", "eof_ignored", "--cause", "unread")
        assert outcomes(found) == [("ended", "unread")]


@pytest.fixture
def child() -> Iterator[Child]:
    with start_child() as child:
        child.do("import threading, time; listener = socket.create_server(('127.0.0.1', 0))")
        child.do("port = listener.getsockname()[1]")
        yield child


@pytest.fixture
def half_closed(child) -> Iterator[socket.socket]:
    """Gives a client that has half-closed; the child's end is `server`."""
    with socket.create_connection(("127.0.0.1", int(child.ask("port")))) as client:
        child.do("server, _ = listener.accept()")
        client.shutdown(socket.SHUT_WR)
        wait_for(int(child.ask("port")), state=CLOSE_WAIT)
        client.settimeout(10)
        yield client


def test_refuses_a_stream_to_a_half_closed_peer(child, half_closed):
    """A connection on which the peer still acknowledges data is alive: refused, and the stream goes on."""
    teach(
        child,
        """
        def stream():
            while True:
                server.sendall(b"event")
                time.sleep(0.05)
        threading.Thread(target=stream, daemon=True).start()
        """,
    )
    assert half_closed.recv(100)
    found = reap(child.pid, "--yes", prefix=PATIENT)
    assert (found["status"], outcomes(found)) == (1, [("refused", "eof_unread")])
    half_closed.setblocking(False)
    while True:
        try:
            assert half_closed.recv(1 << 16)
        except BlockingIOError:
            break
    half_closed.settimeout(10)
    assert half_closed.recv(100)


def test_refuses_a_slow_consumer(child):
    """Who works off a full queue is alive: refused, and it gets all that was sent."""
    port = int(child.ask("port"))
    with socket.create_connection(("127.0.0.1", port)) as client:
        child.do("server, _ = listener.accept()")
        client.sendall(bytes(60_000))
        client.shutdown(socket.SHUT_WR)
        wait_for(port, state=CLOSE_WAIT, recv_queue=60_001)
        teach(
            child,
            """
            def sip():
                while server.recv(20):
                    time.sleep(0.05)
            threading.Thread(target=sip, daemon=True).start()
            """,
        )
        found = reap(child.pid, "--yes", prefix=PATIENT)
        assert (found["status"], outcomes(found)) == (1, [("refused", "unread")])
        client.settimeout(0)
        with pytest.raises(BlockingIOError):
            client.recv(1)


def test_live_connections_are_no_candidates(child):
    """Established connections of the same process are not touched while its leaks are ended."""
    port = int(child.ask("port"))
    with socket.create_connection(("127.0.0.1", port)) as alive, socket.create_connection(("127.0.0.1", port)) as gone:
        child.do("first, _ = listener.accept(); second, _ = listener.accept()")
        gone.shutdown(socket.SHUT_WR)
        wait_for(port, state=CLOSE_WAIT)
        assert outcomes(reap(child.pid, "--yes")) == [("ended", "eof_unread")]
        child.do("first.sendall(b'still here')")
        alive.settimeout(10)
        assert alive.recv(100) == b"still here"


# The last look before acting


def facts_of(child: Child) -> tuple[SocketFacts, Holder]:
    (leak,) = find_leaks(look_at_processes([child.pid]), min_age=0, pids=[child.pid])
    return leak.connection, leak.owner or next(iter(leak.holders))


def test_number_given_to_another_connection_is_not_hit(child, half_closed):
    """The owner closes and gets a new connection under the same number: refused, and the new one lives."""
    facts, holder = facts_of(child)
    child.do("server.close()")
    with socket.create_connection(("127.0.0.1", int(child.ask("port")))) as client:
        child.do("server, _ = listener.accept()")
        assert int(child.ask("server.fileno()")) == holder.fd
        client.shutdown(socket.SHUT_WR)
        wait_for(int(child.ask("port")), state=CLOSE_WAIT)
        with pytest.raises(NotTheSame, match="another connection"):
            shut_down(facts, holder, started=read_stat(child.pid).started)
        child.do("server.sendall(b'alive')")
        client.settimeout(10)
        assert client.recv(100) == b"alive"


def test_number_given_to_something_else_is_not_hit(child, half_closed):
    """A number that is a file, or nothing, by now is told as closed meanwhile."""
    facts, holder = facts_of(child)
    child.do("server.close()")
    with pytest.raises(NotTheSame, match="closed meanwhile"):
        shut_down(facts, holder, started=None)
    child.do("file = open('/dev/null')")
    assert int(child.ask("file.fileno()")) == holder.fd
    with pytest.raises(NotTheSame, match="closed meanwhile"):
        shut_down(facts, holder, started=None)
    child.do("file.close(); datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)")
    assert int(child.ask("datagrams.fileno()")) == holder.fd
    with pytest.raises(NotTheSame):
        shut_down(facts, holder, started=None)


def test_connection_that_its_owner_has_ended_is_left_alone(child, half_closed):
    """A connection that is no longer in CLOSE_WAIT is told with the state that it is in."""
    facts, holder = facts_of(child)
    child.do("server.shutdown(socket.SHUT_WR)")
    assert half_closed.recv(1) == b""
    with pytest.raises(NotTheSame, match=r"CLOSE|LAST_ACK"):
        shut_down(facts, holder, started=None)


def test_connection_that_was_answered_meanwhile_is_alive(child, half_closed):
    """Data that the peer acknowledged since the look is a sign of life."""
    facts, holder = facts_of(child)
    child.do("server.sendall(b'answer')")
    assert half_closed.recv(100) == b"answer"
    wait_for(int(child.ask("port")), state=CLOSE_WAIT, send_queue=0)
    with pytest.raises(StillAlive):
        shut_down(facts, holder, started=None)
    assert wait_for(int(child.ask("port")), state=CLOSE_WAIT)


def test_other_process_with_the_same_pid_is_refused(child, half_closed):
    """A process that did not start when the one that was looked at started is another one."""
    facts, holder = facts_of(child)
    started = read_stat(child.pid).started
    with pytest.raises(ProcessLookupError, match="replaced"):
        shut_down(facts, holder, started=started + 1)
    assert wait_for(int(child.ask("port")), state=CLOSE_WAIT)
    shut_down(facts, holder, started=started)
    assert half_closed.recv(1) == b""


def test_process_that_is_gone(child, half_closed):
    """A process that ended meanwhile is an error of the kernel's own kind."""
    facts, holder = facts_of(child)
    with pytest.raises(ProcessLookupError):
        shut_down(facts, holder._replace(pid=2**22 + 1), started=None)


@pytest.fixture
def _python_default_timeout():
    socket.setdefaulttimeout(5)
    yield
    socket.setdefaulttimeout(None)


@pytest.mark.usefixtures("_python_default_timeout")
@pytest.mark.parametrize("blocking", [True, False])
def test_borrowing_leaves_the_owners_flags(child, half_closed, blocking):
    """O_NONBLOCK belongs to owner and borrower alike: whatever the borrower's default timeout, it stays as it was."""
    child.do(f"server.setblocking({blocking})")
    fd = int(child.ask("server.fileno()"))
    before = descriptor_flags(child.pid, fd)
    with borrow_socket(child.pid, fd) as borrowed:
        assert descriptor_flags(child.pid, fd) == before
        assert borrowed.getpeername() == half_closed.getsockname()
    assert descriptor_flags(child.pid, fd) == before
    assert bool(before & os.O_NONBLOCK) is not blocking


@pytest.mark.usefixtures("_python_default_timeout")
@pytest.mark.parametrize("blocking", [True, False])
def test_borrowing_from_ourselves_leaves_our_flags(blocking):
    """The same holds for a descriptor of this very process, which stays open as well."""
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as client:
        client.setblocking(blocking)
        before = fcntl.fcntl(client, fcntl.F_GETFL)
        with borrow_socket(os.getpid(), client.fileno()) as borrowed:
            assert borrowed.fileno() != client.fileno()
            assert fcntl.fcntl(client, fcntl.F_GETFL) == before
        assert fcntl.fcntl(client, fcntl.F_GETFL) == before


# Connections that were never accepted


@pytest.fixture
def queued(child) -> Iterator[tuple[Child, socket.socket]]:
    """Gives a child that has one half-closed connection in its accept queue, and the client."""
    port = int(child.ask("port"))
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.shutdown(socket.SHUT_WR)
        wait_for(port, state=CLOSE_WAIT, inode=False)
        client.settimeout(10)
        yield child, client


def test_never_accepted_is_refused_without_destroy(queued):
    """There is no descriptor to act on: refused, with the option that would help."""
    child, client = queued
    found = reap(child.pid, "--yes")
    assert (found["status"], outcomes(found)) == (1, [("refused", "not_accepted")])
    assert "--destroy" in found["results"][0]["why"]
    assert wait_for(int(child.ask("port")), state=CLOSE_WAIT)
    assert client.fileno() >= 0


def test_destroy_is_a_dry_run_too(queued):
    """--destroy without --yes says what it would do."""
    child, _ = queued
    found = reap(child.pid, "--destroy")
    assert (found["status"], outcomes(found)) == (1, [("would end", "not_accepted")])
    assert wait_for(int(child.ask("port")), state=CLOSE_WAIT)


@needs_root
def test_destroy_resets_what_was_never_accepted(queued):
    """With --destroy --yes the client sees a reset, and accept() yields a connection that is over."""
    child, client = queued
    with socket.create_connection(client.getpeername()) as alive:
        found = reap(child.pid, "--yes", "--destroy")
        assert (found["status"], outcomes(found)) == (0, [("ended", "not_accepted")])
        with pytest.raises(ConnectionResetError):
            client.recv(1)
        child.do("dead, _ = listener.accept(); second, _ = listener.accept(); second.sendall(b'alive')")
        alive.settimeout(10)
        assert alive.recv(100) == b"alive"


@needs_root
def test_destroy_leaves_alone_what_was_accepted_meanwhile(queued):
    """A connection that was accepted since the look is no longer nobody's: not touched."""
    child, client = queued
    facts, listener = facts_of(child)
    child.do("server, _ = listener.accept()")
    with pytest.raises(NotTheSame, match="accepted"):
        destroy_unaccepted(facts, listener)
    child.do("server.sendall(b'alive')")
    assert client.recv(100) == b"alive"


@needs_root
def test_destroy_without_the_right_fails_and_says_so(queued):
    """Without CAP_NET_ADMIN the outcome is `failed`, with the kernel's reason, and nothing is changed."""
    child, client = queued
    teach(
        child,
        """
        import ctypes, os
        os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
        ctypes.CDLL(None).prctl(4, 1)
        """,
    )
    found = reap(child.pid, "--yes", "--destroy", prefix=AS_NOBODY)
    assert (found["status"], outcomes(found)) == (1, [("failed", "not_accepted")])
    assert "not permitted" in found["results"][0]["why"]
    assert wait_for(port_of(client), state=FIN_WAIT2)


# Rights


@needs_root
def test_owner_may_reap_without_being_root(child, half_closed):
    """The owner of a process needs no special right to end its leaks."""
    teach(
        child,
        """
        import ctypes, os
        os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
        ctypes.CDLL(None).prctl(4, 1)
        """,
    )
    found = reap(child.pid, "--yes", prefix=AS_NOBODY)
    assert (found["status"], outcomes(found)) == (0, [("ended", "eof_unread")])
    assert half_closed.recv(1) == b""


@needs_root
def test_another_users_process_is_out_of_reach(child, half_closed):
    """Without rights on the process nothing is done, in one line, with exit status 2."""
    outcome = run("reap", "--pid", child.pid, "--older-than", 0, "--yes", prefix=AS_NOBODY)
    assert outcome.status == 2
    assert f"process {child.pid}" in outcome.err
    assert wait_for(int(child.ask("port")), state=CLOSE_WAIT)


def test_without_borrowing_nothing_is_ended(child, half_closed):
    """Where descriptors cannot be borrowed the outcome is `failed`, with the reason."""
    found = reap(child.pid, "--yes", prefix=refusing("pidfd_getfd"))
    assert (found["status"], outcomes(found)) == (1, [("failed", "eof_unread")])
    assert wait_for(int(child.ask("port")), state=CLOSE_WAIT)


def test_without_netlink_it_works_by_borrowing(child, half_closed):
    """Where netlink is refused, cookie and TCP_INFO come from the borrowed descriptor, and reap works as well."""
    found = reap(child.pid, "--yes", prefix=refusing("netlink"))
    assert outcomes(found) == [("ended", "eof_unread")]
    assert half_closed.recv(1) == b""
