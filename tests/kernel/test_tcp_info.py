"""TCP_INFO: each length that a kernel may give, and captured bytes of a real one."""

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captured import DATA
from loopback import connect, inode_of, listen, state_of, vanished_peer
from sockguard._kernel.tcp_info import MIN_LENGTH, parse_tcp_info, read_tcp_info
from sockguard.errors import InternalError
from strategies import KNOWN_LENGTHS, MIN_TCP_INFO, TCP_INFO_BYTES, KernelTcpInfo, expected_tcp_info
from waiting import eventually

CAPTURED = sorted(DATA.glob("tcp_info-*.bin"))
OPTIONAL_ENDS = {
    "bytes_acked": 128,
    "bytes_received": 136,
    "segs_out": 140,
    "segs_in": 144,
    "notsent_bytes": 148,
    "bytes_sent": 208,
    "bytes_retrans": 216,
}
"""Where each optional field ends, read off include/uapi/linux/tcp.h."""


def test_offsets_of_the_kernels_header() -> None:
    """The structure that the tests decode by has the offsets of the kernel's header."""
    ends = {name: getattr(KernelTcpInfo, name).offset + getattr(KernelTcpInfo, name).size for name in OPTIONAL_ENDS}
    assert ends == OPTIONAL_ENDS


def test_shortest_form_ends_with_total_retrans() -> None:
    """104 bytes is where `struct tcp_info` ended from Linux 2.6 to 4.1."""
    assert KernelTcpInfo.total_retrans.offset + KernelTcpInfo.total_retrans.size == MIN_LENGTH == MIN_TCP_INFO


@pytest.mark.parametrize("length", range(MIN_TCP_INFO))
def test_too_short_for_any_kernel(length: int) -> None:
    """What no kernel gives is refused, and the message says how long it was."""
    with pytest.raises(InternalError, match=f"has {length} bytes"):
        parse_tcp_info(bytes(length))


RAMP = bytes(n % 251 + 1 for n in range(512))
"""No zero byte, and no two fields alike."""


@pytest.mark.parametrize("length", range(MIN_TCP_INFO, 513))
def test_exactly_the_fields_that_fit_are_told(length: int) -> None:
    """A field that is cut off, even by its last byte only, is None; one that fits has its full value."""
    info = parse_tcp_info(RAMP[:length])
    assert {name for name in OPTIONAL_ENDS if getattr(info, name) is not None} == {
        name for name, end in OPTIONAL_ENDS.items() if end <= length
    }
    assert info == expected_tcp_info(RAMP[:length])


@given(st.binary(max_size=512))
def test_garbage_is_decoded_or_refused(raw: bytes) -> None:
    """No bytes raise anything but InternalError."""
    if len(raw) < MIN_TCP_INFO:
        with pytest.raises(InternalError):
            parse_tcp_info(raw)
    else:
        assert parse_tcp_info(raw) == expected_tcp_info(raw)


@given(TCP_INFO_BYTES)
def test_every_field_is_read_from_its_place(raw: bytes) -> None:
    """Any bytes are decoded to the same as by the kernel's own structure."""
    assert parse_tcp_info(raw) == expected_tcp_info(raw)


@given(TCP_INFO_BYTES, st.binary(max_size=300))
def test_longer_structure_of_a_newer_kernel_changes_no_known_field(raw: bytes, more: bytes) -> None:
    """The structure only grows at its end: what was told before is told the same."""
    shorter, longer = parse_tcp_info(raw), parse_tcp_info(raw + more)
    assert all(longer[n] == value for n, value in enumerate(shorter) if value is not None)


@given(TCP_INFO_BYTES, st.binary(max_size=20), st.binary(max_size=20))
def test_it_is_read_from_the_middle_of_a_message(raw: bytes, before: bytes, after: bytes) -> None:
    """What stands before and behind it is neither read nor counted."""
    assert parse_tcp_info(before + raw + after, len(before), len(before) + len(raw)) == expected_tcp_info(raw)
    with pytest.raises(InternalError, match="has 103 bytes"):
        parse_tcp_info(before + raw + after, len(before), len(before) + 103)


def test_data_was_captured() -> None:
    """The captured files are there: a test of none of them would pass in silence."""
    assert {path.stem.rpartition("-")[2] for path in CAPTURED} >= {"listener", "server", "close_wait", "syn_sent"}


@pytest.mark.parametrize("path", CAPTURED, ids=lambda path: path.stem)
@pytest.mark.parametrize("length", KNOWN_LENGTHS)
def test_captured_bytes_as_each_kernel_would_give_them(path: object, length: int) -> None:
    """Real bytes, cut to the length of older kernels, tell the same as far as they go."""
    raw = path.read_bytes()  # type: ignore[attr-defined]
    assert len(raw) == 280
    whole, cut = parse_tcp_info(raw), parse_tcp_info(raw[:length])
    assert cut == expected_tcp_info(raw[:length])
    assert all(value in (None, whole[n]) for n, value in enumerate(cut))
    assert cut[:9] == whole[:9]


def captured(name: str):
    (path,) = DATA.glob(f"tcp_info-*-{name}.bin")
    return parse_tcp_info(path.read_bytes())


def test_captured_listener_tells_its_queue() -> None:
    """Of a listener, `unacked` is the length of the accept queue and `sacked` its backlog."""
    assert (captured("listener").state, captured("listener").unacked, captured("listener").sacked) == (10, 2, 8)


def test_captured_connections_tell_what_moved() -> None:
    """Five bytes went from the client to the server, who sent none; the client's SYN counts as acknowledged."""
    client, server = captured("client"), captured("server")
    assert (client.state, client.bytes_sent, client.bytes_acked, client.bytes_received) == (1, 5, 6, 0)
    assert (server.state, server.bytes_sent, server.bytes_acked, server.bytes_received) == (1, 0, 0, 5)


def test_captured_close_wait_tells_when_the_fin_came() -> None:
    """Four bytes and the FIN had arrived a third of a second before; nothing was sent."""
    info = captured("close_wait")
    assert (info.state, info.bytes_received, info.bytes_sent) == (8, 5, 0)
    assert 0.25 < info.last_ack_recv < 2


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_real_socket(family: socket.AddressFamily) -> None:
    """A living connection is read in its present state, then as one that the peer closed."""
    with connect(family) as connection:
        connection.client.sendall(b"hello")
        eventually(lambda: read_tcp_info(connection.server).bytes_received == 5)
        assert (read_tcp_info(connection.server).state, read_tcp_info(connection.client).bytes_sent) == (1, 5)
    with vanished_peer(family, sent=b"hello") as connection:
        info = read_tcp_info(connection.server)
        assert (info.state, info.bytes_received, info.bytes_acked, info.bytes_sent) == (8, 6, 0, 0)
        assert 0 <= info.last_ack_recv < 5


def test_real_listener_tells_its_queue() -> None:
    """Two connections wait at a listener with backlog 8."""
    with (
        listen() as listener,
        socket.create_connection(listener.getsockname()),
        socket.create_connection(listener.getsockname()),
    ):
        info = eventually(lambda: (info := read_tcp_info(listener)).unacked == 2 and info)
        assert (info.state, info.sacked) == (state_of(listener), 8)


def test_other_sockets_have_none() -> None:
    """UDP and Unix sockets are refused by the kernel, and closed ones have no descriptor."""
    closed = socket.socket()
    closed.close()
    one, other = socket.socketpair()
    with one, other, socket.socket(type=socket.SOCK_DGRAM) as datagrams:
        assert inode_of(datagrams)
        for sock in (closed, one, datagrams):
            with pytest.raises(OSError, match=r"Errno (9|92|95)"):
                read_tcp_info(sock)
