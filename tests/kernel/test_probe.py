"""Which doors are open: here as root, in sandboxes, without rights; and what trying them leaves behind: nothing."""

import ast
import errno
import os
import platform
import socket
import subprocess
import sys
import threading

import pytest

from children import Child, start_child
from commands import needs_root
from loopback import connect, inode_of, state_of
from netstat import rows
from refusing import PIDFD_GETFD, PIDFD_OPEN, SOCKET, needs_seccomp
from sockguard._core.facts import SocketFacts
from sockguard._kernel import probe
from sockguard._kernel.inet_diag import open_diag, read_sockets
from sockguard._kernel.probe import probe_doors
from sockguard.errors import KernelUnavailable
from waiting import eventually

NETLINK, TEXT, FDS, BORROW = "sock_diag netlink", "/proc/net/tcp", "/proc/PID/fd of others", "pidfd_getfd"
DESTROY, SETNS = "SOCK_DESTROY", "setns"
DOORS = [NETLINK, TEXT, FDS, BORROW, DESTROY, SETNS]
ESTABLISHED, CLOSE = 1, 7

CALL_SETNS = {"x86_64": 308, "aarch64": 268}.get(platform.machine(), -1)
AF_NETLINK = 16
BECOME_NOBODY = "os.setgroups([]); os.setresgid(*[65534] * 3); os.setresuid(*[65534] * 3)"
LIKE_AFTER_EXEC = "ctypes.CDLL(None).prctl(4, 1)"  # PR_SET_DUMPABLE; else not even its own /proc/self were its


def closed_doors() -> dict[str, str]:
    """Tries all doors here; gives the closed ones with their reasons."""
    return {door.name: door.reason for door in probe_doors() if not door.is_open}


def closed_doors_in(child: Child, before: str) -> dict[str, str]:
    """Likewise in a child, which first does something to itself; no process of its own may be left there."""
    child.do(f"sys.path[:] = {sys.path!r}")
    child.do("import ctypes; from refusing import refuse; from sockguard._kernel.probe import probe_doors")
    child.do("doors = probe_doors()")  # all that is imported late is imported by now
    child.do(before)
    child.do("doors = probe_doors()")
    child.do("children = []")
    child.do("exec('try: children.append(os.waitpid(-1, os.WNOHANG))\\nexcept ChildProcessError: pass')")
    assert child.ask("children") == "[]"
    return ast.literal_eval(child.ask("{door.name: door.reason for door in doors if not door.is_open}"))


def test_doors_are_told_in_one_order_with_what_they_are_for() -> None:
    """Each has its use; reason and remedy exactly if it is closed."""
    doors = probe_doors()
    assert [door.name for door in doors] == DOORS
    for door in doors:
        assert door.serves
        assert (bool(door.reason), bool(door.remedy)) == (not door.is_open, not door.is_open)


def hidden_from_us() -> set[str]:
    """Lists the processes whose descriptors may not be seen; in some containers even root's init is one."""
    hidden = set()
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        try:
            for fd in os.listdir(f"/proc/{pid}/fd"):
                os.readlink(f"/proc/{pid}/fd/{fd}")
        except PermissionError:
            hidden.add(pid)
        except OSError:
            continue
    return hidden


@needs_root
def test_all_doors_are_open_to_root() -> None:
    """On a host that has them; what a container may keep from its root is skipped aloud."""
    closed = closed_doors()
    assert not closed.keys() & {NETLINK, TEXT}
    assert (FDS in closed) is bool(hidden_from_us())
    if closed.keys() - {FDS}:
        pytest.skip(f"root may not do everything here: {closed}")


# What it leaves behind


@pytest.fixture
def ports(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Gives the ports of the listeners that are made, as they are made."""
    made: list[int] = []
    create_server = socket.create_server

    def create_and_note(*arguments: object, **options: object) -> socket.socket:
        listener = create_server(*arguments, **options)  # type: ignore[arg-type]
        made.append(listener.getsockname()[1])
        return listener

    monkeypatch.setattr(socket, "create_server", create_and_note)
    return made


@pytest.mark.usefixtures("no_garbage")
def test_no_socket_descriptor_or_thread_stays_behind(ports: list[int]) -> None:
    """All that was opened is closed, and no row of the test connections is left in any state."""
    probe_doors()  # ctypes opens files of its own at first use
    before = os.listdir("/proc/self/fd"), {*threading.enumerate()}
    probe_doors()
    assert os.listdir("/proc/self/fd") == before[0]
    assert not {*threading.enumerate()} - before[1]
    assert len(ports) == 4
    eventually(lambda: [row for port in ports for row in rows(port)] == [])


def test_no_process_stays_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """The child that lent a socket has ended by itself and was waited for."""
    started: list[subprocess.Popen[bytes]] = []

    class Noted(subprocess.Popen):
        def __init__(self, *arguments: object, **options: object) -> None:
            super().__init__(*arguments, **options)  # type: ignore[call-overload]
            started.append(self)

    monkeypatch.setattr(subprocess, "Popen", Noted)
    probe_doors()
    (process,) = started
    assert process.returncode == 0
    with pytest.raises(ProcessLookupError):
        os.kill(process.pid, 0)


def test_no_byte_and_no_connection_of_others_is_touched() -> None:
    """A connection of somebody else goes on as before."""
    with connect() as connection:
        connection.client.sendall(b"before")
        probe_doors()
        connection.client.sendall(b" and after")
        eventually(lambda: connection.server.recv(99, socket.MSG_PEEK) == b"before and after")
        assert state_of(connection.server) == ESTABLISHED


def row_of(sock: socket.socket) -> SocketFacts:
    with open_diag() as diag:
        return next(row for row in read_sockets(diag, [ESTABLISHED]) if row.inode == inode_of(sock))


def test_connection_of_others_that_is_listed_first_is_not_destroyed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all connections only the one that was made for it is ended, wherever it stands in the table."""
    with connect() as connection:
        others = [row_of(connection.client), row_of(connection.server)]
        destroyed: list[SocketFacts] = []
        monkeypatch.setattr(probe, "read_sockets", lambda *arguments: others + read_sockets(*arguments))
        monkeypatch.setattr(probe, "destroy_socket", lambda _, facts: destroyed.append(facts))
        assert DESTROY not in closed_doors()
        assert len(destroyed) == 1
        assert destroyed[0].inode not in {row.inode for row in others}


def test_connection_of_others_from_the_same_port_is_not_destroyed(
    monkeypatch: pytest.MonkeyPatch, ports: list[int]
) -> None:
    """A local port is no identity: connections to other places may come from the same one."""
    destroyed: list[SocketFacts] = []
    with connect() as connection, socket.socket() as victim:

        def crowded(diag: socket.socket, states: list[int]) -> list[SocketFacts]:
            listed = read_sockets(diag, states)
            own = [row for row in listed if ports and row.remote and row.remote.port == ports[-1] and row.inode]
            if not own:
                return listed
            victim.bind(("127.0.0.2", own[0].local.port))
            victim.connect(connection.listener.getsockname())
            return [row_of(victim), *listed]

        monkeypatch.setattr(probe, "read_sockets", crowded)
        monkeypatch.setattr(probe, "destroy_socket", lambda _, facts: destroyed.append(facts))
        assert DESTROY not in closed_doors()
        assert len(destroyed) == 1
        assert destroyed[0].inode != inode_of(victim)


@needs_root
def test_own_connection_is_really_destroyed(monkeypatch: pytest.MonkeyPatch) -> None:
    """An open door means that it was gone through: the test connection is over."""
    duplicates: list[socket.socket] = []
    create_connection = socket.create_connection

    def create_and_keep(address: tuple[str, int]) -> socket.socket:
        client = create_connection(address)
        duplicates.append(client.dup())
        return client

    monkeypatch.setattr(socket, "create_connection", create_and_keep)
    closed = closed_doors()
    lent, destroyed = duplicates
    with lent, destroyed:
        if DESTROY in closed:
            pytest.skip("SOCK_DESTROY needs CAP_NET_ADMIN and a kernel with CONFIG_INET_DIAG_DESTROY")
        assert state_of(destroyed) == CLOSE
        assert destroyed.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNABORTED
        assert lent.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != errno.ECONNABORTED


# Closed doors


@needs_seccomp
@pytest.mark.slow
@pytest.mark.parametrize(
    ("call", "number", "first", "closed", "reason"),
    [
        pytest.param(SOCKET, errno.EPERM, AF_NETLINK, {NETLINK, DESTROY, SETNS}, "netlink", id="no netlink"),
        pytest.param(PIDFD_GETFD, errno.EPERM, None, {BORROW}, "Operation not permitted", id="no borrowing"),
        pytest.param(PIDFD_OPEN, errno.ENOSYS, None, {BORROW}, "Linux 5.6", id="an old kernel"),
        pytest.param(CALL_SETNS, errno.EPERM, None, {SETNS}, "Operation not permitted", id="no setns"),
    ],
)
def test_door_that_a_sandbox_keeps_shut_is_closed(
    call: int, number: int, first: int | None, closed: set[str], reason: str
) -> None:
    """Just those doors that need the refused call are closed more than before, with the kernel's reason."""
    already = set(closed_doors())
    with start_child() as child:
        found = closed_doors_in(child, f"refuse({call}, {number}, {first})")
    assert found.keys() == closed | already
    for door in closed - already:
        assert reason in found[door]


@needs_root
@pytest.mark.slow
def test_user_without_rights_finds_half_of_them_closed() -> None:
    """Nobody may list sockets, and may neither see others' descriptors, nor destroy, nor enter."""
    with start_child() as child:
        found = closed_doors_in(child, f"{BECOME_NOBODY}; {LIKE_AFTER_EXEC}")
    assert found.keys() - {BORROW} == {FDS, DESTROY, SETNS}  # BORROW: by yama, and by where Python lies
    assert found[FDS].startswith("refused for ")
    assert {found[DESTROY], found[SETNS]} == {"Operation not permitted"}


def test_refused_descriptors_are_counted_and_one_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three processes one is gone, which is no refusal, and one may not be seen: that one is told."""
    answers = {1: PermissionError(errno.EACCES, "Permission denied"), 2: ProcessLookupError(errno.ESRCH, "gone")}

    def read(pid: int) -> None:
        if pid in answers:
            raise answers[pid]

    monkeypatch.setattr(probe, "list_pids", lambda: [2, 1, 3])
    monkeypatch.setattr(probe, "read_socket_fds", read)
    assert closed_doors()[FDS] == "refused for 1 of 3 processes, such as 1"


def test_process_that_vanishes_meanwhile_is_no_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a refusal closes the door."""
    with start_child() as child:
        gone = child.pid
    monkeypatch.setattr(probe, "list_pids", lambda: [gone, os.getpid()])
    assert FDS not in closed_doors()


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (PermissionError(errno.EPERM, "Operation not permitted"), "Operation not permitted"),
        (TimeoutError("timed out"), "timed out"),
        (KernelUnavailable("netlink", "refused", "Allow it."), "netlink is not available: refused. Allow it."),
    ],
    ids=["of the kernel", "without a number", "of ours"],
)
def test_reason_is_what_the_error_says(monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str) -> None:
    """An error of the system or of ours closes the one door that it comes from, and hides no other."""

    def fail() -> None:
        raise error

    before = closed_doors().keys()
    monkeypatch.setattr(probe, "read_net_tcp", fail)
    found = closed_doors()
    assert found[TEXT] == reason
    assert found.keys() == before | {TEXT}


def test_error_of_another_kind_is_a_bug_and_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slip in our own code does not look like a closed door."""
    monkeypatch.setattr(probe, "read_net_tcp", lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        probe_doors()


def test_own_connection_that_is_not_listed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the table hides it (gVisor), nothing is destroyed and the door counts as closed."""
    monkeypatch.setattr(probe, "read_sockets", lambda *_: [])
    assert closed_doors()[DESTROY] == "its own test connection was not listed"
