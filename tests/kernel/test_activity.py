"""What the kernel says of a live connection: bytes both ways, queues, and seconds ago."""

import socket
import struct
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loopback import Connection, connect, listen, reset, state_of, vanished_peer
from sockguard._core.connection import Activity
from sockguard._kernel import activity
from sockguard._kernel.activity import is_over, read_activity, was_ever_connected
from sockguard._kernel.tcp_info import read_tcp_info
from strategies import KNOWN_LENGTHS, expected_tcp_info
from waiting import eventually

ESTABLISHED, CLOSE, CLOSE_WAIT = 1, 7, 8
FAMILIES = [socket.AF_INET, socket.AF_INET6]


@pytest.mark.parametrize("family", FAMILIES)
def test_fresh_connection_has_moved_nothing(family: socket.AddressFamily) -> None:
    """Neither side; only the one who connected counts its SYN as acknowledged."""
    with connect(family) as connection:
        for sock, acked in ((connection.server, 0), (connection.client, 1)):
            assert read_activity(sock)[:5] == (ESTABLISHED, 0, acked, 0, 0)
            assert read_activity(sock).eof_unread is False


def test_bytes_that_arrived_are_unread_until_they_are_read() -> None:
    """What was received stays counted."""
    with connect() as connection:
        connection.client.sendall(b"hello")
        eventually(lambda: read_activity(connection.server).unread == 5)
        assert connection.server.recv(2) == b"he"
        after = read_activity(connection.server)
        assert (after.received, after.unread) == (5, 3)


def test_bytes_that_the_peer_has_are_acknowledged() -> None:
    """Whether or not it has read them."""
    with connect() as connection:
        connection.server.sendall(b"hello")
        eventually(lambda: read_activity(connection.server).acked == 5)
        assert read_activity(connection.server).unsent == 0


def fill(connection: Connection) -> int:
    """Sends until nothing more fits in; tells how much that was."""
    connection.server.setblocking(False)
    n_sent = 0
    try:
        while True:
            n_sent += connection.server.send(bytes(65536))
    except BlockingIOError:
        return n_sent


@pytest.mark.slow
def test_bytes_for_a_peer_that_does_not_read_are_unsent() -> None:
    """All that was sent is either acknowledged or still in the queue."""
    with connect() as connection:
        n_sent = fill(connection)
        now = read_activity(connection.server)
        assert now.unsent > 0 and now.acked > 0
        assert now.unsent + now.acked == n_sent


@pytest.mark.parametrize("sent", [b"", b"hello"])
def test_fin_counts_as_received_and_not_as_unread(sent: bytes) -> None:
    """It is one byte of the sequence, so it moves a count once, and nobody can read it."""
    with vanished_peer(sent=sent) as connection:
        now = read_activity(connection.server)
        assert (now.state, now.received, now.unread) == (CLOSE_WAIT, len(sent) + 1, len(sent))


def test_fin_of_ours_counts_until_it_is_acknowledged() -> None:
    """As a byte that is sent: first in the queue, then acknowledged."""
    with connect() as connection:
        connection.server.shutdown(socket.SHUT_WR)
        eventually(lambda: read_activity(connection.server).acked == 1)


def test_seconds_are_counted_from_the_last_byte_and_the_last_packet() -> None:
    """A bare acknowledgement, as for what we send, is heard; it is no byte received."""
    with connect() as connection:
        connection.client.sendall(b"x")
        eventually(lambda: read_activity(connection.server).received == 1)
        eventually(lambda: read_activity(connection.server).since_received > 0.02)
        connection.server.sendall(b"y")
        eventually(lambda: read_activity(connection.server).acked == 1)
        now = read_activity(connection.server)
        assert now.since_heard < now.since_received < 10.0


def test_reset_connection_is_in_state_close() -> None:
    """Its counts stay readable as long as its descriptor is open."""
    with connect() as connection:
        connection.client.sendall(b"x")
        eventually(lambda: read_activity(connection.server).received == 1)
        reset(connection.client)
        eventually(lambda: read_activity(connection.server).state == CLOSE)
        assert read_activity(connection.server).received == 1


class Told:
    """Stands for a socket in a test of the decoding: the kernel's answer is given."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw

    def getsockopt(self, _level: int, _name: int, length: int) -> bytes:
        return self.raw[:length]

    def fileno(self) -> int:
        return -1


@pytest.mark.slow
@given(st.sampled_from(KNOWN_LENGTHS).flatmap(lambda n: st.binary(min_size=n, max_size=n)), st.integers(0, 2**31 - 1))
def test_tcp_info_of_any_kernel_is_decoded_as_its_header_says(raw: bytes, queue: int) -> None:
    """Against the ctypes structure; a count that a kernel does not tell (before 4.1; gVisor) is 0."""
    patched = pytest.MonkeyPatch()

    def ioctl(_fd: int, _request: int, count: bytearray) -> None:
        count[:] = struct.pack("=i", queue)

    patched.setattr(activity, "ioctl", ioctl)
    try:
        found = read_activity(Told(raw))  # type: ignore[arg-type]
    finally:
        patched.undo()
    info = expected_tcp_info(raw)
    expected = (info.state, info.bytes_received or 0, info.bytes_acked or 0, queue, queue)
    assert found == Activity(*expected, info.last_data_recv, info.last_ack_recv)


def test_same_is_told_as_by_the_whole_record() -> None:
    """The short way and `read_tcp_info` agree on a live socket."""
    with vanished_peer(sent=b"hello") as connection:
        now, info = read_activity(connection.server), read_tcp_info(connection.server)
        assert (now.state, now.received, now.acked) == (info.state, info.bytes_received, info.bytes_acked)


def test_no_tcp_socket_is_an_error() -> None:
    """A Unix or closed socket has no TCP_INFO."""
    one, other = socket.socketpair()
    with one, other, pytest.raises(OSError, match="not supported"):
        read_activity(one)
    with pytest.raises(OSError, match="Bad file descriptor"):
        read_activity(one)


# Was it ever a connection?


def test_socket_that_never_connected_is_told_from_a_dead_connection() -> None:
    """Both are in state CLOSE; one that was refused got a packet, and was no connection either."""
    with socket.socket() as fresh, socket.socket() as refused, listen() as listener:
        nobody = listener.getsockname()
        listener.close()
        with pytest.raises(ConnectionRefusedError):
            refused.connect(nobody)
        assert [state_of(sock) for sock in (fresh, refused)] == [CLOSE, CLOSE]
        assert [was_ever_connected(sock) for sock in (fresh, refused)] == [False, False]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("sent", [b"", b"hello"])
def test_dead_connection_was_one(family: socket.AddressFamily, sent: bytes) -> None:
    """Whether it has moved a byte or not, on either side."""
    with connect(family) as connection:
        connection.client.sendall(sent)
        eventually(lambda: read_activity(connection.server).received == len(sent))
        connection.server.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        reset(connection.client)
        eventually(lambda: state_of(connection.server) == CLOSE)
        assert was_ever_connected(connection.server)


# Is it over?


def test_connection_is_over_when_its_peer_has_hung_up_and_nothing_is_unread() -> None:
    """One with bytes to read is not, nor is one that is open."""
    with connect() as healthy, vanished_peer() as gone, vanished_peer(sent=b"x") as unread, connect() as dead:
        reset(dead.client)
        eventually(lambda: state_of(dead.server) == CLOSE)
        assert [is_over(c.server) for c in (healthy, gone, unread, dead)] == [False, True, False, True]


def test_what_cannot_be_told_is_not_over() -> None:
    """A socket of another kind, or closed by now, is nobody's dead connection."""
    one, other = socket.socketpair()
    with one, other:
        assert not is_over(one)
    assert not is_over(one)


def test_module_imports_where_there_is_no_fcntl(monkeypatch: pytest.MonkeyPatch) -> None:
    """On Windows, where nothing of it can be called."""
    import importlib.util  # noqa: PLC0415 - only to load the module anew

    monkeypatch.setitem(sys.modules, "fcntl", None)
    spec = importlib.util.spec_from_file_location("activity_without_fcntl", activity.__file__)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert not hasattr(module, "ioctl")
