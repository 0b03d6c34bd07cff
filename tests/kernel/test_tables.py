"""The best door to the tables that is open: netlink, else text, else a word about what is missing."""

import errno
import os
import socket

import pytest

from children import start_child
from loopback import connect, inode_of, listen, reset, state_of, vanished_peer
from sockguard._core.facts import Holder, ProcessFacts, SocketFacts, TcpState
from sockguard._kernel import tables
from sockguard._kernel.one_socket import read_cookie
from sockguard._kernel.proc_pid import read_netns, read_process
from sockguard._kernel.tables import OWNED_STATES, SICK_STATES, read_table, read_unlisted, with_infos
from sockguard.errors import InternalError, KernelUnavailable
from waiting import eventually

PID, NETNS = os.getpid(), read_netns()


def holder_of(sock: socket.socket) -> Holder:
    return Holder(PID, sock.fileno(), "tests")


def rows_of(table: tables.Table, *sockets: socket.socket) -> dict[int, SocketFacts]:
    """Those rows that belong to these sockets, by inode: others run on this machine too."""
    inodes = {inode_of(sock) for sock in sockets}
    return {row.inode: row for row in table.sockets if row.inode in inodes}


@pytest.fixture
def no_netlink(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sandbox that refuses netlink, as `open_diag` tells of it."""

    def refuse(*_: object) -> socket.socket:
        raise KernelUnavailable("sock_diag netlink", "refused with Operation not permitted", "")

    monkeypatch.setattr(tables, "open_diag", refuse)
    monkeypatch.setattr(tables, "open_diag_in", refuse)


def test_owned_states_are_all_that_a_process_can_hold() -> None:
    """TIME_WAIT and half-open requests are records without a file; a socket that is merely bound is no connection."""
    unowned = {TcpState.TIME_WAIT, TcpState.NEW_SYN_RECV, TcpState.BOUND_INACTIVE}
    assert set(OWNED_STATES) == set(TcpState) - unowned
    assert set(SICK_STATES) == {TcpState.CLOSE_WAIT, TcpState.LISTEN} < set(OWNED_STATES)


@pytest.mark.parametrize("states", [SICK_STATES, OWNED_STATES], ids=["sick", "owned"])
def test_only_the_states_wanted_are_listed(states: tuple[int, ...]) -> None:
    """CLOSE_WAIT and LISTEN always, with TCP_INFO; the others if asked for."""
    with connect() as healthy, vanished_peer() as sick:
        table = read_table(PID, NETNS, states, is_own=True)
        rows = rows_of(table, *healthy, sick.listener, sick.server)
        wanted = {inode_of(s) for s in (sick.server, sick.listener, healthy.listener)}
        assert set(rows) == wanted | (
            {inode_of(healthy.client), inode_of(healthy.server)} if states == OWNED_STATES else set()
        )
        assert all(rows[inode].info for inode in wanted)
        assert (table.unseen, {row.netns for row in rows.values()}) == ([], {NETNS})


@pytest.mark.usefixtures("no_netlink")
@pytest.mark.parametrize("states", [SICK_STATES, OWNED_STATES], ids=["sick", "owned"])
@pytest.mark.parametrize("is_own", [True, False])
def test_text_takes_the_place_of_refused_netlink(states: tuple[int, ...], is_own: bool) -> None:
    """The same sockets are listed, without TCP_INFO and cookie, and that is said together with the reason."""
    with connect() as healthy, vanished_peer() as sick:
        table = read_table(PID, NETNS, states, is_own=is_own)
        rows = rows_of(table, *healthy, sick.listener, sick.server)
        wanted = {inode_of(s) for s in (sick.server, sick.listener, healthy.listener)}
        assert set(rows) == wanted | (
            {inode_of(healthy.client), inode_of(healthy.server)} if states == OWNED_STATES else set()
        )
        assert {(row.info, row.cookie, row.netns) for row in rows.values()} == {(None, None, NETNS)}
        (unseen,) = table.unseen
        assert "Operation not permitted" in unseen.what and f"/proc/{PID}/net/tcp" in unseen.what
        assert (unseen.pid, unseen.fatal, unseen.remedy != "") == (None, False, True)


def test_namespace_that_may_not_be_entered_is_read_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """setns() needs rights that reading /proc/PID/net does not."""

    def refuse(_: int) -> socket.socket:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(tables, "open_diag_in", refuse)
    with vanished_peer() as sick:
        table = read_table(PID, NETNS, is_own=False)
        assert rows_of(table, sick.server)[inode_of(sick.server)].state == TcpState.CLOSE_WAIT
        assert f"{NETNS} may not be entered (Operation not permitted)" in table.unseen[0].what


@pytest.mark.usefixtures("no_netlink")
def test_namespace_with_no_door_open_is_told_as_fatal() -> None:
    """Neither netlink nor text: the process was not looked at, which is no clean bill of health."""
    with start_child() as child:
        pid = child.pid
    table = read_table(pid, 7, OWNED_STATES, is_own=False)
    assert table.sockets == []
    (unseen,) = table.unseen
    assert (unseen.pid, unseen.fatal) == (pid, True)
    assert "Operation not permitted" in unseen.what and f"/proc/{pid}/net/tcp cannot be read" in unseen.what


def test_process_that_is_gone_is_told_so_that_another_can_be_asked() -> None:
    """The namespace may live on in other processes."""
    with start_child() as child:
        pid = child.pid
    with pytest.raises(ProcessLookupError):
        read_table(pid, 7, OWNED_STATES, is_own=False)


def test_answer_that_cannot_be_read_is_not_covered_by_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug of ours must come to light instead of costing the ages for ever."""

    def misread(*_: object, **__: object) -> list[SocketFacts]:
        raise InternalError("garbage")

    monkeypatch.setattr(tables, "read_sockets", misread)
    with pytest.raises(InternalError):
        read_table(PID, NETNS, is_own=True)


def test_connection_that_changes_between_the_two_dumps_is_not_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The peer hangs up between the dump of the healthy and that of the sick: it is among the sick."""
    genuine, n_dumps = tables.read_sockets, []
    with connect() as connection:

        def read_sockets(*arguments: object, **keywords: object) -> list[SocketFacts]:
            if n_dumps:
                connection.client.close()
                eventually(lambda: state_of(connection.server) == 8)
            n_dumps.append(1)
            return genuine(*arguments, **keywords)  # type: ignore[arg-type]

        monkeypatch.setattr(tables, "read_sockets", read_sockets)
        table = read_table(PID, NETNS, OWNED_STATES, is_own=True)
        states = [row.state for row in table.sockets if row.inode == inode_of(connection.server)]
        assert len(n_dumps) == 2
        assert TcpState.CLOSE_WAIT in states


def bare(sock: socket.socket, **fields: object) -> SocketFacts:
    """The row of a socket as the text table has it."""
    table = read_table(PID, NETNS, OWNED_STATES, is_own=True)
    (row,) = rows_of(table, sock).values()
    return row._replace(info=None, cookie=None, memory=None, **fields)  # type: ignore[arg-type]


def test_missing_info_is_asked_of_the_socket_itself() -> None:
    """What a text row lacks, TCP_INFO and cookie, comes from a holder that lends the socket."""
    with vanished_peer(sent=b"hello") as sick:
        row = bare(sick.server)
        (completed,) = with_infos([row], {row.inode: (holder_of(sick.server),)}, {})
        assert completed.info.bytes_received == 6
        assert completed == row._replace(info=completed.info, cookie=read_cookie(sick.server))


def test_rows_that_need_nothing_are_left_alone() -> None:
    """Healthy rows, rows with TCP_INFO and rows that nobody is known to hold are not asked about."""
    with connect() as healthy, vanished_peer() as sick:
        sound, row = bare(healthy.server), bare(sick.server)
        told = row._replace(info=read_unlisted(holder_of(sick.server), row.inode, netns=7).info)
        holders = {s.inode: (holder_of(sock),) for s, sock in ((sound, healthy.server), (row, sick.server))}
        assert with_infos([sound, told], holders, {}) == [sound, told]
        assert with_infos([row], {}, {}) == [row]


def test_descriptor_that_is_another_socket_by_now_lends_nothing() -> None:
    """The number may have been given to another connection, whose facts must not get into the row."""
    with vanished_peer() as sick, vanished_peer() as other:
        row = bare(sick.server)
        assert with_infos([row], {row.inode: (holder_of(other.server),)}, {}) == [row]


@pytest.mark.parametrize("holder", [Holder(PID, 1 << 19, "closed"), Holder(2**22 - 1, 3, "gone")])
def test_row_stays_as_it_is_where_nobody_lends(holder: Holder) -> None:
    """A closed descriptor, or a process that is gone, costs the age and nothing else."""
    with vanished_peer() as sick:
        row = bare(sick.server)
        assert with_infos([row], {row.inode: (holder,)}, {}) == [row]


def test_replaced_process_lends_nothing() -> None:
    """The start time that was read with the holder is checked."""
    with vanished_peer() as sick, start_child(pass_fds=[sick.server.fileno()]) as child:
        row, process = bare(sick.server), read_process(child.pid)
        holders = {row.inode: (Holder(child.pid, sick.server.fileno(), ""),)}
        later: ProcessFacts = process._replace(started=process.started + 1)
        assert with_infos([row], holders, {child.pid: later}) == [row]
        assert with_infos([row], holders, {child.pid: process})[0].info is not None


def test_unlisted_dead_connection_is_a_candidate() -> None:
    """No table lists it any more; its descriptor tells of it."""
    with connect() as connection:
        reset(connection.client)
        eventually(lambda: state_of(connection.server) == 7)
        facts = read_unlisted(holder_of(connection.server), inode_of(connection.server), netns=7)
        assert (facts.state, facts.inode, facts.netns) == (TcpState.CLOSE, inode_of(connection.server), 7)


def test_unlisted_close_wait_is_a_candidate() -> None:
    """A socket that was made in another network namespace is in none of the tables that are read."""
    with vanished_peer() as sick:
        assert read_unlisted(holder_of(sick.server), inode_of(sick.server), netns=7).state == TcpState.CLOSE_WAIT


def test_healthy_fresh_and_exchanged_sockets_are_no_candidates() -> None:
    """Established, listening, never connected, or another one than was meant."""
    with connect() as healthy, vanished_peer() as sick, socket.socket() as fresh, listen() as listener:
        for sock in (healthy.server, healthy.client, fresh, listener):
            assert read_unlisted(holder_of(sock), inode_of(sock), netns=7) is None
        assert read_unlisted(holder_of(sick.server), inode_of(healthy.server), netns=7) is None


def test_closed_descriptor_cannot_be_looked_at() -> None:
    """It is an OSError, for the caller to tell `closed` from `no leak`."""
    with pytest.raises(OSError, match="Bad file descriptor"):
        read_unlisted(Holder(PID, 1 << 19, ""), 5, netns=7)
