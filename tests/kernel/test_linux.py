"""One look at this process, or at others: real sockets, real children, and doors that are closed."""

import errno
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from children import Child, start_child
from loopback import connect, inode_of, listen, reset, state_of, vanished_peer
from refusing import PIDFD_GETFD, PIDFD_OPEN, SOCKET, needs_seccomp
from sockguard._core.facts import Address, Holder, ProcessFacts, Snapshot, SocketFacts, TcpState
from sockguard._core.leaks import Cause, find_leaks
from sockguard._kernel import linux, tables
from sockguard._kernel.linux import look_at_processes, look_at_self, require_linux
from sockguard._kernel.natives import system
from sockguard._kernel.one_socket import read_cookie
from sockguard._kernel.pidfd import borrow_socket
from sockguard._kernel.proc_pid import read_netns
from sockguard.errors import KernelUnavailable
from waiting import eventually

PID = os.getpid()

pytestmark = pytest.mark.one_python


def row_of(snapshot: Snapshot, sock: socket.socket) -> SocketFacts | None:
    rows = [row for row in snapshot.sockets if row.inode == inode_of(sock)]
    return rows[-1] if rows else None


def causes(snapshot: Snapshot, *sockets: socket.socket, pids: list[int] | None = None) -> list[Cause | None]:
    """The cause named for each of these sockets; None where it is no leak."""
    by_inode = {leak.inode: leak.cause for leak in find_leaks(snapshot, min_age=0, pids=pids)}
    return [by_inode.get(inode_of(sock)) for sock in sockets]


# This process


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_own_leak_is_seen_with_its_holder_and_age(family: socket.AddressFamily) -> None:
    """A connection in CLOSE_WAIT comes back with all that a report needs; the healthy one is no leak."""
    with vanished_peer(family, sent=b"hello") as sick, connect(family) as healthy:
        snapshot = look_at_self()
        row = row_of(snapshot, sick.server)
        assert (row.state, row.recv_queue, row.cookie) == (TcpState.CLOSE_WAIT, 6, read_cookie(sick.server))
        assert (row.netns, row.info.bytes_received) == (read_netns(), 6)
        (holder,) = snapshot.holders[row.inode]
        assert (holder.pid, holder.fd) == (PID, sick.server.fileno())
        assert causes(snapshot, sick.server, *healthy) == [Cause.UNREAD, None, None, None]
        assert snapshot.unseen == ()


def test_own_dead_descriptor_is_seen() -> None:
    """A connection that was reset is in no table; its descriptor gives it away."""
    with connect() as connection:
        remote = Address(*connection.client.getsockname())
        reset(connection.client)
        eventually(lambda: state_of(connection.server) == 7)
        snapshot = look_at_self()
        row = row_of(snapshot, connection.server)
        assert (row.state, row.remote) == (TcpState.CLOSE, remote)
        assert causes(snapshot, connection.server) == [Cause.DEAD_FD]


def test_sockets_that_never_were_connected_are_no_leaks() -> None:
    """Fresh, bound, refused, listening, shut-down listeners, UDP and Unix sockets: all are silent."""
    one, other = socket.socketpair()
    with (
        listen() as listener,
        listen() as shut,
        socket.socket() as fresh,
        socket.socket() as bound,
        socket.socket() as refused,
        one,
        socket.socket(type=socket.SOCK_DGRAM) as udp,
    ):
        bound.bind(("127.0.0.1", 0))
        refused.connect_ex(bound.getsockname())
        shut.shutdown(socket.SHUT_RDWR)
        other.close()
        assert causes(look_at_self(), listener, shut, fresh, bound, refused, one, udp) == [None] * 7


def test_own_connection_that_was_never_accepted_is_seen() -> None:
    """It has no descriptor; it is this process's, for the listener is."""
    with listen() as listener:
        with socket.create_connection(listener.getsockname()) as client:
            remote = Address(*client.getsockname())

        def leaks() -> list[object]:
            return [leak for leak in find_leaks(look_at_self(), min_age=0, pids=[PID]) if leak.remote == remote]

        (leak,) = eventually(leaks)
        assert (leak.cause, leak.pid, leak.fd, leak.inode) == (Cause.NOT_ACCEPTED, PID, None, None)
        assert leak.owner.fd == listener.fileno()
        assert [s.inode for s in leak.listeners] == [inode_of(listener)]


def test_side_of_a_client_and_of_a_server() -> None:
    """Whoever called connect() is the client, also on loopback, where both ends are ours."""
    with connect() as one, connect() as other:
        one.client.close()
        other.server.close()
        eventually(lambda: state_of(one.server) == state_of(other.client) == 8)
        sides = {leak.inode: leak.side for leak in find_leaks(look_at_self(), min_age=0)}
        assert (sides[inode_of(one.server)], sides[inode_of(other.client)]) == ("server", "client")


def test_server_that_ended_its_side_is_still_a_server() -> None:
    """A dead descriptor of a server whose own FIN was acknowledged."""
    with connect() as connection:
        connection.client.shutdown(socket.SHUT_WR)
        connection.server.sendall(b"bye")
        connection.server.shutdown(socket.SHUT_WR)
        eventually(lambda: state_of(connection.server) == 7)
        (leak,) = (leak for leak in find_leaks(look_at_self(), min_age=0) if leak.inode == inode_of(connection.server))
        assert (leak.cause, leak.side) == (Cause.DEAD_FD, "server")


def test_dead_descriptor_of_a_server_knows_its_listener() -> None:
    """Where it came in is told, for the listener still exists."""
    with connect() as connection:
        connection.server.sendall(b"x")
        assert connection.client.recv(1) == b"x"
        reset(connection.client)
        eventually(lambda: state_of(connection.server) == 7)
        (leak,) = (leak for leak in find_leaks(look_at_self(), min_age=0) if leak.inode == inode_of(connection.server))
        assert [s.inode for s in leak.listeners] == [inode_of(connection.listener)]


def test_client_that_died_with_one_byte_unacknowledged_is_still_a_client() -> None:
    """The byte that met a closed peer was never acknowledged; that must not turn the sides round."""
    with connect() as connection:
        connection.listener.close()
        connection.server.close()
        eventually(lambda: state_of(connection.client) == 8)
        connection.client.sendall(b"x")
        eventually(lambda: state_of(connection.client) == 7)
        (leak,) = (leak for leak in find_leaks(look_at_self(), min_age=0) if leak.inode == inode_of(connection.client))
        assert (leak.cause, leak.side) == (Cause.DEAD_FD, "client")


@pytest.mark.usefixtures("no_garbage")
def test_looking_at_oneself_leaves_nothing_behind() -> None:
    """No descriptor stays open, and no socket of the application is changed."""
    with vanished_peer(sent=b"hello") as sick, connect() as dead:
        reset(dead.client)
        eventually(lambda: state_of(dead.server) == 7)
        look_at_self()  # the first one may import and cache
        before = sorted(os.listdir("/proc/self/fd"))
        look_at_self()
        assert sorted(os.listdir("/proc/self/fd")) == before
        assert os.get_blocking(sick.server.fileno())
        assert (sick.server.recv(99), sick.server.recv(99)) == (b"hello", b"")


def test_descriptor_closed_while_it_is_looked_at_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread may close a dead descriptor in between; the look goes on."""
    genuine = linux.read_all_sockets
    with connect() as dead, connect() as other:
        for connection in (dead, other):
            reset(connection.client)
            eventually(lambda connection=connection: state_of(connection.server) == 7)
        inode = inode_of(dead.server)

        def read_then_close() -> dict[int, list[int]]:
            found = genuine()
            dead.server.close()
            return found

        monkeypatch.setattr(linux, "read_hung_up", read_then_close)  # this one or that, as others' queues are
        monkeypatch.setattr(linux, "read_all_sockets", read_then_close)
        snapshot = look_at_self()
        assert inode not in {row.inode for row in snapshot.sockets}
        assert causes(snapshot, other.server) == [Cause.DEAD_FD]


def without_netlink(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse_it(*_: object) -> socket.socket:
        raise KernelUnavailable("sock_diag netlink", "refused with Operation not permitted", "")

    monkeypatch.setattr(tables, "open_diag", refuse_it)
    monkeypatch.setattr(tables, "open_diag_in", refuse_it)


def comparable(snapshot: Snapshot, *sockets: socket.socket) -> dict[int, SocketFacts]:
    """The rows of these sockets, less what /proc/net/tcp cannot tell: interface, and a listener's backlog and info."""
    rows = {}
    for row in snapshot.sockets:
        if row.inode in map(inode_of, sockets):
            bare = {"info": None, "cookie": None, "send_queue": 0} if row.state != TcpState.CLOSE_WAIT else {}
            info = row.info and row.info._replace(
                last_data_sent=0, last_data_recv=0, last_ack_recv=0, segs_out=0, segs_in=0
            )
            rows[row.inode] = row._replace(**{"interface": 0, "info": info} | bare)  # type: ignore[arg-type]
    return rows


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
@pytest.mark.parametrize("look", [look_at_self, lambda: look_at_processes([PID])], ids=["self", "processes"])
def test_refused_netlink_changes_nothing_but_the_documented_gaps(
    monkeypatch: pytest.MonkeyPatch, look: object, family: socket.AddressFamily
) -> None:
    """By text and borrowed sockets the same leaks come out, age and cookie included; and the report says how."""
    with vanished_peer(family, sent=b"hello") as sick, vanished_peer(family) as other, connect(family) as dead:
        reset(dead.client)
        eventually(lambda: state_of(dead.server) == 7)
        mine = (sick.listener, sick.server, other.server, dead.server)
        by_netlink: Snapshot = look()  # type: ignore[operator]
        without_netlink(monkeypatch)
        by_text: Snapshot = look()  # type: ignore[operator]
        assert comparable(by_text, *mine) == comparable(by_netlink, *mine)
        assert (
            causes(by_text, *mine) == causes(by_netlink, *mine) == [None, Cause.UNREAD, Cause.EOF_UNREAD, Cause.DEAD_FD]
        )
        assert (len(by_netlink.unseen), len(by_text.unseen)) == (0, 1)
        assert "sock_diag netlink is refused" in by_text.unseen[0].what


LOOK_IN_SANDBOX = """
import socket, sys
from refusing import refuse
from loopback import inode_of, vanished_peer
from sockguard._kernel.linux import look_at_self
with vanished_peer(sent=b"hello") as sick:
    refuse({socket_call}, {error}, socket.AF_NETLINK)
    snapshot = look_at_self()
    (row,) = (row for row in snapshot.sockets if row.inode == inode_of(sick.server))
    print(row.state, row.recv_queue, row.info.bytes_received, row.cookie is not None)
    print(snapshot.unseen[0].what)
"""


def run(script: str) -> list[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent.parent), *sys.path])}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=90, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.slow
@needs_seccomp
@pytest.mark.parametrize("error", [errno.EPERM, errno.EAFNOSUPPORT, errno.EACCES])
def test_real_sandbox_without_netlink(error: int) -> None:
    """Under a seccomp filter that refuses AF_NETLINK the leak is found all the same, with its age."""
    row, unseen = run(LOOK_IN_SANDBOX.format(socket_call=SOCKET, error=error))
    assert row == "8 6 6 True"
    assert f"sock_diag netlink is refused (refused with {os.strerror(error)})" in unseen


def test_other_system_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no Linux kernel to ask, it is said, with what was wanted."""
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(KernelUnavailable, match="finding leaks is not available: darwin is not Linux"):
        look_at_self()
    with pytest.raises(KernelUnavailable, match="looking at processes"):
        look_at_processes()
    with pytest.raises(KernelUnavailable, match="dancing"):
        require_linux("dancing")


# Other processes


def leak_in(child: Child, number: int = 0) -> int:
    """Makes the child accept a connection whose client then goes; returns the inode."""
    child.do("listener = socket.create_server(('127.0.0.1', 0))")
    child.do("client = socket.create_connection(listener.getsockname()); server, _ = listener.accept(); client.close()")
    eventually(lambda: child.ask("server.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]") == "8")
    return int(child.ask("os.fstat(server.fileno()).st_ino"))


@pytest.fixture
def leaking() -> Iterator[tuple[Child, int]]:
    with start_child() as child:
        yield child, leak_in(child)


def test_leak_of_another_process_is_seen(leaking: tuple[Child, int]) -> None:
    """Its row, its holder, its process with descriptor budget, and its listener."""
    child, inode = leaking
    snapshot = look_at_processes([child.pid])
    (leak,) = find_leaks(snapshot, min_age=0, pids=[child.pid])
    assert (leak.pid, leak.inode, leak.cause, leak.side) == (child.pid, inode, Cause.EOF_UNREAD, "server")
    assert leak.fd == int(child.ask("server.fileno()"))
    process = snapshot.processes[child.pid]
    assert (process.pid, process.ppid, process.fd_used) == (child.pid, PID, len(os.listdir(f"/proc/{child.pid}/fd")))
    assert list(snapshot.processes) == [child.pid]
    assert [s.inode for s in leak.listeners] == [int(child.ask("os.fstat(listener.fileno()).st_ino"))]


def test_dead_descriptor_of_another_process_is_seen() -> None:
    """It is borrowed to be looked at, and given back untouched."""
    with listen() as listener, start_child() as child:
        child.do(f"sock = socket.create_connection({listener.getsockname()!r})")
        reset(listener.accept()[0])
        eventually(lambda: child.ask("sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]") == "7")
        (leak,) = find_leaks(look_at_processes([child.pid]), min_age=0, pids=[child.pid])
        assert (leak.cause, leak.pid, str(leak.fd)) == (Cause.DEAD_FD, child.pid, child.ask("sock.fileno()"))
        assert child.ask("sock.getblocking()") == "True"


def test_every_process_is_looked_at_if_none_is_named(leaking: tuple[Child, int]) -> None:
    """Without pids all processes and their sockets come back."""
    child, inode = leaking
    snapshot = look_at_processes()
    assert {PID, child.pid} <= set(snapshot.processes)
    assert [holder.pid for holder in snapshot.holders[inode]] == [child.pid]


def test_those_who_share_a_leak_are_found_outside_of_the_pids_asked_for() -> None:
    """All who hold it are named with their ancestors, so that the cause is the same whoever is asked about."""
    with vanished_peer() as sick, start_child(pass_fds=[sick.server.fileno()]) as child:
        inode = inode_of(sick.server)
        for pids in ([PID], [child.pid]):
            snapshot = look_at_processes(pids)
            held = [(holder.pid, holder.fd) for holder in snapshot.holders[inode]]
            assert held == sorted([(PID, sick.server.fileno()), (child.pid, sick.server.fileno())])
            assert snapshot.parents[child.pid] == PID
            assert list(snapshot.processes) == pids
        alone = look_at_processes([child.pid], find_owners=False)
        assert [holder.pid for holder in alone.holders[inode]] == [child.pid]


def test_connection_that_children_kept_is_shared() -> None:
    """The parent, which listens, closed it; two children hold it: the documented cause, from real processes."""
    with (
        vanished_peer() as sick,
        start_child(pass_fds=[sick.server.fileno()]) as one,
        start_child(pass_fds=[sick.server.fileno()]) as other,
    ):
        inode, both = inode_of(sick.server), sorted([one.pid, other.pid])
        sick.server.close()
        for pids in ([one.pid], [PID]):
            leaks = find_leaks(look_at_processes(pids), min_age=0, pids=pids)
            (leak,) = (leak for leak in leaks if leak.inode == inode)
            assert (leak.cause, [h.pid for h in leak.holders]) == (Cause.SHARED, both)


def test_process_that_does_not_exist_is_fatal() -> None:
    """It was asked for by its pid, so silence would be taken for health; the others are looked at."""
    with start_child() as gone:
        pid = gone.pid
    snapshot = look_at_processes([PID, pid])
    (unseen,) = snapshot.unseen
    assert (unseen.pid, unseen.fatal, list(snapshot.processes)) == (pid, True, [PID])
    assert str(pid) in unseen.what


def test_zombie_asked_for_is_fatal_and_told_as_such() -> None:
    """It holds nothing any more, which is another thing than to hold nothing that leaks."""
    pid = os.posix_spawn("/bin/true", ["true"], {})
    try:
        eventually(lambda: Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z")
        (unseen,) = look_at_processes([pid]).unseen
        assert (unseen.pid, unseen.fatal, "zombie" in unseen.what) == (pid, True, True)
        assert pid not in look_at_processes().processes
    finally:
        os.waitpid(pid, 0)


@pytest.mark.parametrize("pids", [[PID], None])
def test_tables_that_cannot_be_read_are_fatal_for_those_asked_for(
    monkeypatch: pytest.MonkeyPatch, pids: list[int] | None
) -> None:
    """Neither netlink nor text: whoever asked for a process has no answer; a look at all has a remark."""

    def refuse_it(*_: object, **__: object) -> list[SocketFacts]:
        raise PermissionError(errno.EACCES, "Permission denied")

    without_netlink(monkeypatch)
    monkeypatch.setattr(tables, "read_net_tcp", refuse_it)
    unseen = [u for u in look_at_processes(pids).unseen if "cannot be read (Permission denied)" in u.what]
    assert unseen
    assert {u.fatal for u in unseen} == {pids is not None}


def test_no_pids_at_all_is_an_empty_look() -> None:
    """To look at none is not to look at all."""
    snapshot = look_at_processes([])
    assert (snapshot.sockets, dict(snapshot.processes), snapshot.unseen) == ((), {}, ())


needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user or mount a /proc")
LOOK_AS_NOBODY = """
import ctypes, os, sys
from sockguard._kernel.linux import look_at_processes
os.setgroups([]); os.setgid(65534); os.setuid(65534)
snapshot = look_at_processes({pids})
print(sum(process.fd_used is None for process in snapshot.processes.values()), snapshot.owners_complete)
print([(unseen.pid, unseen.fatal) for unseen in snapshot.unseen])
print({inode} in {{row.inode for row in snapshot.sockets}})
"""


@needs_root
@pytest.mark.slow
def test_process_of_another_user_is_listed_and_told_as_unreadable(leaking: tuple[Child, int]) -> None:
    """Without rights the row stays; that its owner is not known is said, as fatal for the pid asked for."""
    child, inode = leaking
    unreadable, unseen, listed = run(LOOK_AS_NOBODY.format(pids=[child.pid], inode=inode))
    assert (unreadable, unseen, listed) == ("1 False", f"[({child.pid}, True)]", "True")
    unreadable, unseen, listed = run(LOOK_AS_NOBODY.format(pids=None, inode=inode))
    assert (unreadable.endswith(" False"), unseen, listed) == (True, "[(None, False)]", "True")


LOOK_WITH_HIDDEN_PROC = """
import ctypes, os
from sockguard._kernel.linux import look_at_processes
libc = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNS, MS_REC, MS_PRIVATE = 0x20000, 0x4000, 0x40000
assert libc.unshare(CLONE_NEWNS) == 0
assert libc.mount(b"none", b"/", None, ctypes.c_ulong(MS_REC | MS_PRIVATE), None) == 0
assert libc.mount(b"proc", b"/proc", b"proc", ctypes.c_ulong(0), b"hidepid={hidepid}") == 0
os.setgroups([]); os.setgid(65534); os.setuid(65534)
every = look_at_processes()
print(os.getpid() in every.processes, every.owners_complete, [(unseen.pid, unseen.fatal) for unseen in every.unseen])
print([(unseen.pid, unseen.fatal) for unseen in look_at_processes([{pid}]).unseen])
"""


@needs_root
@pytest.mark.slow
@pytest.mark.parametrize("hidepid", [1, 2])
def test_processes_hidden_by_the_mount_of_proc_do_not_end_the_look(hidepid: int) -> None:
    """Under hidepid=1 they are listed and may not be read, under 2 they do not even exist."""
    with start_child() as child:
        every, unseen = run(LOOK_WITH_HIDDEN_PROC.format(hidepid=hidepid, pid=child.pid))
        assert every.startswith("True")
        assert unseen == f"[({child.pid}, True)]"


@needs_root
@pytest.mark.slow
def test_processes_hidden_by_the_mount_of_proc_are_told_of() -> None:
    """Some of those that are listed under hidepid=1 may be owners, so it is told, as of all without rights."""
    with start_child() as child:
        every, _ = run(LOOK_WITH_HIDDEN_PROC.format(hidepid=1, pid=child.pid))
        assert every == "True False [(None, False)]"


LOOK_WHERE_NOTHING_IS_LENT = """
import ctypes, sys
from refusing import refuse
from sockguard._kernel.linux import look_at_processes
refuse({call}, {error})
snapshot = look_at_processes([{pid}])
print({inode} in {{row.inode for row in snapshot.sockets}})
print([(unseen.pid, unseen.fatal, "1 TCP descriptors" in unseen.what) for unseen in snapshot.unseen])
"""


@pytest.mark.slow
@needs_seccomp
@pytest.mark.parametrize("call", [PIDFD_OPEN, PIDFD_GETFD])
@pytest.mark.parametrize("error", [errno.ENOSYS, errno.EPERM])
def test_kernel_that_does_not_lend_costs_only_the_dead_descriptors(
    leaking: tuple[Child, int], call: int, error: int
) -> None:
    """Old kernels and sandboxes: listed leaks come out, and that unlisted ones could not be looked at is said."""
    child, inode = leaking
    child.do("unlisted = socket.socket()")
    listed, unseen = run(LOOK_WHERE_NOTHING_IS_LENT.format(call=call, error=error, pid=child.pid, inode=inode))
    assert (listed, unseen) == ("True", f"[({child.pid}, False, True)]")


def test_system_that_cannot_lend_is_told(leaking: tuple[Child, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Python knows no pidfd_open, what no table lists cannot be looked at, and that is said."""
    child, inode = leaking
    child.do("unlisted, udp = socket.socket(), socket.socket(type=socket.SOCK_DGRAM)")
    monkeypatch.delattr(system, "pidfd_open")
    snapshot = look_at_processes([child.pid])
    (unseen,) = snapshot.unseen
    assert (unseen.pid, unseen.fatal, "1 TCP descriptors" in unseen.what) == (child.pid, False, True)
    assert inode in {leak.inode for leak in find_leaks(snapshot, min_age=0, pids=[child.pid])}


@pytest.mark.parametrize("pids", [True, False])
def test_process_whose_descriptors_may_not_be_seen(
    leaking: tuple[Child, int], monkeypatch: pytest.MonkeyPatch, pids: bool
) -> None:
    """It is fatal for a pid that was asked for, and a remark where all were; its leak stays, with no owner."""
    child, inode = leaking
    genuine = linux.read_process

    def unreadable(pid: int) -> ProcessFacts:
        process = genuine(pid)
        return process._replace(fd_used=None, sockets={}) if pid == child.pid else process

    monkeypatch.setattr(linux, "read_process", unreadable)
    snapshot = look_at_processes([child.pid] if pids else None)
    about = [(u.pid, u.fatal) for u in snapshot.unseen if u.pid in (child.pid, None)]
    assert about == [(child.pid, True)] if pids else (None, False) in about
    assert not snapshot.owners_complete
    (leak,) = (leak for leak in find_leaks(snapshot, min_age=0) if leak.inode == inode)
    assert (leak.pid, leak.holders) == (None, ())


def test_namespace_is_asked_by_the_next_process_if_the_first_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any process that lives in it will do; with none left its rows are gone, and that is no error."""
    genuine = linux.read_process
    with start_child() as first, start_child() as second:
        inode = leak_in(second)

        def in_another_namespace(pid: int) -> ProcessFacts:
            process = genuine(pid)._replace(netns=7)
            if pid == first.pid:
                first.end()
            return process

        monkeypatch.setattr(linux, "read_process", in_another_namespace)
        both = sorted([first.pid, second.pid], key=lambda pid: pid != first.pid)
        monkeypatch.setattr(linux, "sorted", lambda _: both, raising=False)
        snapshot = look_at_processes(both, find_owners=False)
        assert inode in {leak.inode for leak in find_leaks(snapshot, min_age=0, pids=[second.pid])}
    monkeypatch.setattr(linux, "sorted", sorted, raising=False)
    with start_child() as first:
        snapshot = look_at_processes([first.pid], find_owners=False)
        assert (snapshot.sockets, find_leaks(snapshot, min_age=0)) == ((), [])


@pytest.mark.parametrize("moment", ["read_process", "read_protocol"])
def test_descriptor_that_is_a_file_by_now_does_not_end_the_look(
    leaking: tuple[Child, int], monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """A number read a moment ago may be a file by now; the leaks of the process come out all the same."""
    child, inode = leaking
    child.do("unlisted = socket.socket()")
    genuine = getattr(linux, moment)

    def then_exchange(*arguments: object) -> object:
        result = genuine(*arguments)
        child.do("os.dup2(os.open(os.devnull, os.O_RDONLY), unlisted.fileno())")
        return result

    monkeypatch.setattr(linux, moment, then_exchange)
    snapshot = look_at_processes([child.pid], find_owners=False)
    assert [leak.inode for leak in find_leaks(snapshot, min_age=0, pids=[child.pid])] == [inode]


def test_process_that_ends_during_the_look_does_not_end_the_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its rows vanish; nothing is raised, and the others are looked at."""
    genuine = linux.read_netns
    with start_child() as child, vanished_peer() as sick:
        leak_in(child)

        def end_first(*arguments: object) -> int:
            child.end()
            return genuine(*arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(linux, "read_netns", end_first)
        snapshot = look_at_processes([PID, child.pid])
        assert inode_of(sick.server) in {leak.inode for leak in find_leaks(snapshot, min_age=0, pids=[PID])}
        assert find_leaks(snapshot, min_age=0, pids=[child.pid]) == []


@pytest.mark.slow
@pytest.mark.skipif(
    os.getuid() != 0 or not shutil.which("unshare"), reason="a network namespace of its own needs root and unshare(1)"
)
def test_process_in_another_network_namespace_is_seen() -> None:
    """Its namespace is asked too; its leak is told apart from one at the same address here."""
    with start_child(["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]) as child:
        inode = leak_in(child)
        for snapshot in (look_at_processes([child.pid]), look_at_processes()):
            (leak,) = find_leaks(snapshot, min_age=0, pids=[child.pid])
            assert (leak.inode, leak.connection.netns, leak.age_is) == (inode, read_netns(child.pid), "exact")
            assert leak.connection.netns != read_netns()


@pytest.mark.slow
@pytest.mark.skipif(
    os.getuid() != 0 or not shutil.which("unshare"), reason="a network namespace of its own needs root and unshare(1)"
)
def test_socket_that_was_made_in_another_namespace_is_seen() -> None:
    """A process may hold sockets of a namespace that it does not live in: no table lists them, the descriptor tells."""
    with start_child(["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]) as child:
        leak_in(child)
        fd = int(child.ask("server.fileno()"))
        with borrow_socket(child.pid, fd) as server:
            assert causes(look_at_self(), server) == [Cause.EOF_UNREAD]
            assert causes(look_at_processes([PID]), server, pids=[PID]) == [Cause.EOF_UNREAD]


def test_holders_come_in_ascending_order() -> None:
    """By pid and descriptor, so that the first one is the one to name."""
    with vanished_peer() as sick, sick.server.dup() as second:
        snapshot = look_at_processes([PID])
        held = snapshot.holders[inode_of(sick.server)]
        assert (
            held
            == tuple(sorted(held))
            == tuple(Holder(PID, fd, held[0].command) for fd in sorted([sick.server.fileno(), second.fileno()]))
        )


@pytest.mark.usefixtures("no_garbage")
def test_nothing_stays_open_after_a_look_at_all() -> None:
    """Netlink sockets, borrowed sockets and pidfds are all closed again."""
    with vanished_peer(), connect() as dead:
        reset(dead.client)
        eventually(lambda: state_of(dead.server) == 7)
        look_at_processes()
        before = sorted(os.listdir("/proc/self/fd"))
        look_at_processes()
        assert sorted(os.listdir("/proc/self/fd")) == before
