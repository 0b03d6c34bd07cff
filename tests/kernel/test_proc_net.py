"""/proc/net/tcp as text: captured, made-up, damaged, and against netlink on the real kernel."""

import contextlib
import os
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captured import DATA, dump
from loopback import connect, inode_of, vanished_peer
from sockguard._core.facts import Address, SocketFacts, TcpState
from sockguard._kernel.inet_diag import ALL_STATES, open_diag, parse_dump, read_sockets
from sockguard._kernel.proc_net import parse_net_tcp, parse_sockstat, read_net_tcp, read_socket_count
from sockguard.errors import InternalError
from strategies import NET_TCP_HEADER, net_tcp_line, net_tcp_rows

VERSION = "6.18"
ROW = SocketFacts(8, Address("127.0.0.1", 8000), Address("127.0.0.1", 50002), 3660, None, 1000, 5, 7, 2, 0, 0, None)
LINE = net_tcp_line(ROW)


def as_text(row: SocketFacts) -> SocketFacts:
    """What the text tables can tell of a row of netlink: less, and of a listener no backlog (its tx_queue is 0)."""
    send_queue = 0 if row.state == TcpState.LISTEN else row.send_queue
    return row._replace(cookie=None, interface=0, info=None, memory=None, send_queue=send_queue)


def text_of(table: str) -> str:
    return (DATA / f"net_{table}-{VERSION}.txt").read_text()


def test_captured_line_is_read_field_by_field() -> None:
    """The line of the CLOSE_WAIT connection with five bytes in its queue, decoded by eye."""
    (row,) = (r for r in parse_net_tcp(text_of("tcp"), 7) if r.remote == Address("127.0.0.1", 50002))
    assert row == SocketFacts(
        8, Address("127.0.0.1", 8000), Address("127.0.0.1", 50002), row.inode, None, 0, 5, 0, 0, 0, 7, None
    )
    assert row.inode > 0


def test_captured_tables_tell_what_netlink_told_at_the_same_moment() -> None:
    """Both doors told of the same twenty sockets in the same way, but for what text cannot tell."""
    text = parse_net_tcp(text_of("tcp")) + parse_net_tcp(text_of("tcp6"))
    netlink = parse_dump(dump(f"inet_diag-{VERSION}-old-full.bin")).sockets
    assert len(text) == len(netlink) == 20
    assert set(text) == set(map(as_text, netlink))


@pytest.mark.slow
@given(st.lists(net_tcp_rows(), max_size=5), st.integers(0, 2**32 - 1))
def test_every_row_comes_back_as_it_was_printed(rows: list[SocketFacts], netns: int) -> None:
    """No line is dropped, changed or brought out of order."""
    text = NET_TCP_HEADER + "".join(map(net_tcp_line, rows))
    assert parse_net_tcp(text, netns) == [row._replace(netns=netns) for row in rows]


@pytest.mark.parametrize("text", ["", NET_TCP_HEADER, NET_TCP_HEADER.rstrip()])
def test_empty_table_has_no_rows(text: str) -> None:
    """A table without sockets is its header alone."""
    assert parse_net_tcp(text) == []


@pytest.mark.parametrize("length", range(LINE.index("3660")))
def test_line_that_is_cut_off_is_refused(length: int) -> None:
    """A row whose end is missing is not taken for a whole one, nor left out."""
    with pytest.raises(InternalError):
        parse_net_tcp(f"{NET_TCP_HEADER}{LINE[:length]}\n{LINE}")


@pytest.mark.parametrize(
    ("part", "damaged"),
    [
        ("0100007F:1F40", "0100007F1F40"),
        ("0100007F:1F40", ":1F40"),
        ("0100007F:1F40", "0100007F:"),
        ("0100007F:1F40", "0100007G:1F40"),
        ("0100007F:1F40", "0100007F0100007F:1F40"),
        ("0100007F:1F40", "0100007F:1F40:1"),
        ("0100007F:1F40", "-100007F:1F40"),
        (" 08 ", " XX "),
        ("00000007:00000005", "0000000700000005"),
        (" 02:", " ZZ:"),
        (" 1000 ", " root "),
        (" 3660 ", " socket:[3660] "),
    ],
)
def test_column_of_another_form_is_refused(part: str, damaged: str) -> None:
    """The line is named in the error, so that it can be reported."""
    line = LINE.replace(part, damaged, 1)
    assert line != LINE
    with pytest.raises(InternalError, match="not a line of /proc/net/tcp"):
        parse_net_tcp(NET_TCP_HEADER + line)


@given(st.text(max_size=300))
def test_garbage_is_refused(text: str) -> None:
    """Any text below the header is refused; nothing but InternalError is raised."""
    lines = text.splitlines()
    if lines:
        with pytest.raises(InternalError):
            parse_net_tcp(NET_TCP_HEADER + text)
    else:
        assert parse_net_tcp(NET_TCP_HEADER + text) == []


@pytest.mark.slow
@given(net_tcp_rows(), st.dictionaries(st.integers(0, 149), st.characters(max_codepoint=127), min_size=1, max_size=3))
def test_damaged_line_is_refused_or_is_still_one_row(row: SocketFacts, damage: dict[int, str]) -> None:
    """Whatever characters are overwritten, the row before is intact, and only InternalError is raised."""
    characters = list(net_tcp_line(row))
    for position, character in damage.items():
        characters[position % (len(characters) - 1)] = character
    try:
        rows = parse_net_tcp(NET_TCP_HEADER + LINE + "".join(characters))
    except InternalError:
        return
    assert rows[0] == ROW
    assert len(rows) >= 2


def test_tables_are_read_of_the_process_asked_for(tmp_path: Path) -> None:
    """Both tables of PID/net are read, IPv4 first, and labelled with the namespace."""
    (tmp_path / "42" / "net").mkdir(parents=True)
    for table in ("tcp", "tcp6"):
        (tmp_path / "42" / "net" / table).write_text(text_of(table))
    rows = read_net_tcp(42, netns=7, proc=str(tmp_path))
    assert rows == parse_net_tcp(text_of("tcp"), 7) + parse_net_tcp(text_of("tcp6"), 7)


def test_kernel_without_ipv6_has_one_table(tmp_path: Path) -> None:
    """Where IPv6 is switched off there is no tcp6, and that is no error."""
    (tmp_path / "self" / "net").mkdir(parents=True)
    (tmp_path / "self" / "net" / "tcp").write_text(NET_TCP_HEADER + LINE)
    assert read_net_tcp(proc=str(tmp_path)) == [ROW]


def test_process_that_is_gone_is_an_error(tmp_path: Path) -> None:
    """No table at all is an OSError, not an empty answer."""
    with pytest.raises(FileNotFoundError):
        read_net_tcp(42, proc=str(tmp_path))


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_real_tables_agree_with_netlink(family: socket.AddressFamily) -> None:
    """For sockets of this process both doors tell the same state, addresses, queues, inode, timer and owner."""
    with connect(family) as connection, vanished_peer(family, sent=b"hello") as gone, open_diag() as diag:
        inodes = {inode_of(sock) for sock in (*connection, gone.listener, gone.server)}
        netlink = [row for row in read_sockets(diag, ALL_STATES, netns=7) if row.inode in inodes]
        text = [row for row in read_net_tcp(netns=7) if row.inode in inodes]
        assert len(text) == 5
        assert set(text) == set(map(as_text, netlink))
        assert {row.uid for row in text} == {os.getuid()}
        (row,) = (row for row in text if row.inode == inode_of(gone.server))
        assert (row.state, row.recv_queue, row.info) == (TcpState.CLOSE_WAIT, 6, None)


def test_sockets_are_counted_without_being_listed():
    """The count of each family's file, and 0 from a file that does not tell."""
    assert (
        parse_sockstat("sockets: used 25\nTCP: inuse 14 orphan 5 tw 157 alloc 8020 mem 12312\nUDP: inuse 0 mem 0\n")
        == 14
    )
    assert parse_sockstat("TCP6: inuse 3\n") == 3
    assert parse_sockstat("sockets: used 1\n") == 0


def test_the_count_follows_the_kernel():
    """Forty more connections, both ends here, are eighty more sockets; other programs may come and go meanwhile."""
    before = read_socket_count()
    with contextlib.ExitStack() as stack:
        for _ in range(40):
            stack.enter_context(connect())
        assert read_socket_count() > before + 40
