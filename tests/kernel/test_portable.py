"""The wrapper's stamps against the kernel's own books, on real connections; and by what other systems tell."""

import contextlib
import errno
import os
import random
import select
import socket
import threading
import time

import pytest

from elsewhere import on_each_system, run_elsewhere
from loopback import connect, reset
from sockguard._core.books import Books
from sockguard._core.policy import Keepalive
from sockguard._kernel import keepalive, portable
from sockguard._kernel.activity import read_activity
from sockguard._kernel.keepalive import apply_keepalive
from sockguard._kernel.portable import ENDS_IT, is_connected, read_queue, read_stamps
from waiting import eventually

ESTABLISHED, CLOSE, CLOSE_WAIT = 1, 7, 8
FAMILIES = [socket.AF_INET, socket.AF_INET6]
KINDS = pytest.mark.parametrize("kind", ["TCP", "Unix"])


@contextlib.contextmanager
def pair(kind: str):
    """Gives our end of a connection and the peer's."""
    if kind == "TCP":
        with connect() as c:
            yield c.server, c.client
    else:
        ours, theirs = socket.socketpair(socket.AF_UNIX)
        with ours, theirs:
            yield ours, theirs


class Wrapper:
    """Does to a socket what a program does, and notes it as a wrapper would."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.books = Books(time.monotonic())

    def recv(self, n: int) -> bytes:
        try:
            data = self.sock.recv(n)
        except OSError as error:
            if error.errno in ENDS_IT:
                self.books.failed(time.monotonic())
            raise
        self.books.received(len(data), time.monotonic())
        if not data:
            self.books.eof(time.monotonic())
        return data

    def send(self, n: int) -> int:
        n = self.sock.send(bytes(n))
        self.books.sent(n, time.monotonic())
        return n

    @property
    def stamps(self):
        return read_stamps(self.sock, self.books, time.monotonic())


# --- The same as the kernel says ---


def differing(ours: Wrapper) -> list[str]:
    """Lists what stamps and kernel say differently."""
    told, known = ours.stamps, read_activity(ours.sock)
    names = ("state", "received", "acked", "unread", "unsent")
    return [f"{n}: {getattr(told, n)}, not {getattr(known, n)}" for n in names if getattr(told, n) != getattr(known, n)]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("seed", range(6))
def test_of_tcp_they_say_what_the_kernel_says(family, seed):
    """Bytes both ways in whatever portions, read and unread, acknowledged and not, up to the peer's FIN and beyond."""
    chance = random.Random(seed)
    with connect(family) as c:
        ours = Wrapper(c.server)
        c.server.setblocking(False)
        c.client.setblocking(False)
        moves = [ours.send, ours.recv, lambda n: c.client.send(bytes(n)), c.client.recv]
        for _ in range(20):
            with contextlib.suppress(BlockingIOError):
                chance.choice(moves)(chance.randrange(1, 60_000))
            eventually(lambda: differing(ours) == [])
        c.client.shutdown(socket.SHUT_WR)
        while ours.books.eof_at is None:
            assert select.select([c.server], [], [], 5)[0]
            eventually(lambda: differing(ours) == [])
            ours.recv(1 << 20)
        assert (differing(ours), ours.stamps.state) == ([], CLOSE_WAIT)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_peer_that_takes_nothing_leaves_bytes_unsent(family):
    """As many as the kernel says; they are not acknowledged, though the system took them."""
    with connect(family) as c:
        ours = Wrapper(c.server)
        c.server.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                ours.send(65536)
        assert eventually(lambda: differing(ours) == [] and ours.stamps.unsent)
        assert ours.stamps.acked + ours.stamps.unsent == ours.books.sent_bytes


# --- State ---


@KINDS
def test_a_connection_on_which_nothing_happened_is_established(kind):
    """Nothing moved, nothing waits."""
    with pair(kind) as (sock, _):
        stamps = read_stamps(sock, Books(5.0), 7.0)
        assert stamps == (ESTABLISHED, 0, 0, 0, 0, 2.0, stamps.since_heard, False)


@KINDS
@pytest.mark.parametrize("sent", [b"", b"precious"])
@pytest.mark.parametrize("how", ["shutdown", "close"])
def test_an_end_is_told_before_and_after_it_is_read(kind, sent, how):
    """Also behind bytes that nobody has read; the end counts as one byte, and is unread until the wrapper notes it."""
    with pair(kind) as (sock, peer):
        ours = Wrapper(sock)
        peer.sendall(sent)
        peer.shutdown(socket.SHUT_WR) if how == "shutdown" else peer.close()
        stamps = eventually(lambda: ours.stamps.state == CLOSE_WAIT and ours.stamps)
        assert (stamps.received, stamps.unread, stamps.eof_unread) == (len(sent) + 1, len(sent), True)
        if sent:
            assert ours.recv(99) == sent
            assert (ours.stamps.received, ours.stamps.unread, ours.stamps.eof_unread) == (len(sent) + 1, 0, True)
        assert ours.recv(99) == b""
        assert (ours.stamps.state, ours.stamps.received, ours.stamps.eof_unread) == (CLOSE_WAIT, len(sent) + 1, False)


@KINDS
def test_our_own_fin_is_no_end(kind):
    """The peer may send for as long as it likes."""
    with pair(kind) as (sock, peer):
        sock.shutdown(socket.SHUT_WR)
        assert peer.recv(1) == b""
        assert Wrapper(sock).stamps.state == ESTABLISHED


def vanish(kind: str, sock: socket.socket, peer: socket.socket) -> None:
    """Ends a connection by a reset, which for a Unix socket is to close with bytes unread."""
    sock.send(b"unread")
    reset(peer) if kind == "TCP" else peer.close()


@KINDS
def test_a_reset_is_told_and_stays_for_the_application_to_hear_of(kind):
    """Nothing that is asked takes the error away; the kernel forgets it as soon as it is handed out, even by a peek."""
    with pair(kind) as (sock, peer):
        ours = Wrapper(sock)
        vanish(kind, sock, peer)
        eventually(lambda: ours.stamps.state == CLOSE)
        for _ in range(3):
            assert ours.stamps.state == CLOSE
        with pytest.raises(ConnectionResetError):
            ours.recv(1)
        assert ours.stamps.state == CLOSE


@KINDS
def test_a_peek_would_have_taken_the_error_away(kind):
    """Pins the kernel fact for which there is none."""
    with pair(kind) as (sock, peer):
        vanish(kind, sock, peer)
        eventually(lambda: Wrapper(sock).stamps.state == CLOSE)
        with pytest.raises(ConnectionResetError):
            sock.recv(1, socket.MSG_PEEK)
        assert sock.recv(1) == b""


def test_where_the_system_does_not_tell_a_failed_call_does():
    """Off Linux nobody says that both directions are shut; a call that failed for good does."""
    with pair("Unix") as (sock, _):
        ours = Wrapper(sock)
        ours.books.failed(1.0)
        assert ours.stamps.state == CLOSE


# --- Movement ---


def test_unread_bytes_came_at_an_unknown_time():
    """It may have been just now; when they are read, it is the time of that."""
    with pair("Unix") as (sock, peer):
        books = Books(5.0)
        peer.sendall(b"xx")
        assert read_stamps(sock, books, 9.0).since_received == 0.0
        books.received(len(sock.recv(99)), 8.0)
        assert read_stamps(sock, books, 9.0).since_received == 1.0


def test_what_the_system_takes_is_acknowledged_where_it_tells_no_more():
    """And what it takes no more is one byte unsent: how many, only the caller of send() knows."""
    with pair("Unix") as (sock, peer):
        ours = Wrapper(sock)
        sock.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                ours.send(1000)
        assert (ours.stamps.acked, ours.stamps.unsent) == (ours.books.sent_bytes, 1)
        while read_queue(sock):
            peer.recv(1 << 20)
        assert (ours.stamps.acked, ours.stamps.unsent) == (ours.books.sent_bytes, 0)


def test_what_waits_in_the_program_is_not_sent():
    """The buffer of a transport: the wrapper has noted its bytes, and the system has not seen them."""
    with pair("Unix") as (sock, _):
        books = Books(0.0)
        books.sent(100, 1.0)
        stamps = read_stamps(sock, books, 2.0, buffered=40)
        assert (stamps.acked, stamps.unsent, stamps.since_heard) == (60, 40, 0.0)


def test_memory_of_a_unix_socket_shrinks_when_the_peer_has_read_a_message():
    """And is no count of bytes; of TCP it is not asked for."""
    with pair("Unix") as (sock, peer), pair("TCP") as (tcp, _):
        assert (read_queue(sock), read_queue(tcp)) == (0, None)
        sock.sendall(b"a")
        one = read_queue(sock)
        sock.sendall(b"b")
        two = read_queue(sock)
        assert 1 < one < two
        peer.recv(1)
        assert read_queue(sock) == two - one


# --- Never in the way ---


@KINDS
def test_a_look_takes_nothing_and_never_waits(kind):
    """On a blocking socket, while another thread waits on it, the mode stays and each byte arrives."""
    got: list[bytes] = []
    with pair(kind) as (sock, peer):
        ours = Wrapper(sock)
        reader = threading.Thread(target=lambda: got.append(sock.recv(5, socket.MSG_WAITALL)))
        reader.start()
        began = time.monotonic()
        for part in (b"h", b"e", b"l", b"l", b"o"):
            for _ in range(50):
                assert ours.stamps.state == ESTABLISHED
            peer.sendall(part)
        reader.join(10)
        assert (got, sock.gettimeout()) == ([b"hello"], None)
        assert time.monotonic() - began < 5


@pytest.mark.parametrize("read", [lambda sock: read_stamps(sock, Books(0.0), 0.0), read_queue, is_connected])
def test_a_closed_socket_is_an_error_of_the_system(read):
    """Never of another kind, whichever question was asked first."""
    sock, peer = socket.socketpair()
    sock.close()
    with peer, pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        read(sock)


# --- Connected ---


def test_connected_means_that_there_is_a_peer():
    """Not before connect(), and not in its midst."""
    with pair("TCP") as (sock, _), socket.socket() as fresh, socket.socket() as connecting:
        assert is_connected(sock)
        assert not is_connected(fresh)
        connecting.setblocking(False)
        connecting.connect_ex(("192.0.2.1", 9))
        assert not is_connected(connecting)


# --- Other systems ---

LOOK = """
import select, socket, time
from sockguard._core.books import Books
from sockguard._kernel import portable, unread
from sockguard._kernel.portable import read_stamps
def look(sock, books):
    stamps = read_stamps(sock, books, time.monotonic())
    print(stamps.state, stamps.received, stamps.unread, stamps.unsent, stamps.eof_unread)
with socket.create_server(("127.0.0.1", 0)) as listener:
    def pair():
        peer = socket.create_connection(listener.getsockname())
        return listener.accept()[0], peer
    sock, peer = pair()
    books = Books(time.monotonic())
    look(sock, books)
    peer.sendall(b"precious")
    select.select([sock], [], [], 5)
    look(sock, books)
    peer.shutdown(socket.SHUT_WR)
    books.received(len(sock.recv(99)), time.monotonic())
    select.select([sock], [], [], 5)
    look(sock, books)
    sock.setblocking(False)
    try:
        while True:
            books.sent(sock.send(bytes(65536)), time.monotonic())
    except BlockingIOError:
        pass
    look(sock, books)
    assert sock.recv(1) == b""
    books.eof(time.monotonic())
    look(sock, books)
print(portable._new_poll is None, unread._HAS_IOCTL)
"""


@on_each_system
def test_other_systems_tell_the_same_by_other_means(system):
    """Without POLLRDHUP and TIOCOUTQ; on Windows by select() and ioctlsocket(), with neither poll nor fcntl."""
    done = run_elsewhere(system, LOOK)
    assert done.stderr == ""
    *looks, has_no_poll, has_ioctl = done.stdout.split()
    looks = [tuple(looks[at : at + 5]) for at in range(0, len(looks), 5)]
    assert looks == [
        ("1", "0", "0", "0", "False"),
        ("1", "8", "8", "0", "False"),
        ("8", "9", "0", "0", "True"),
        ("8", "9", "0", "1", "True"),
        ("8", "9", "0", "1", "False"),
    ]
    assert (has_no_poll, has_ioctl) == (("True", "False") if system == "win32" else ("False", "True"))


def test_an_end_that_only_seems_to_be_one_is_none(monkeypatch):
    """Readable with nothing to read, as another thread was faster: where only that tells of an end, it asks again."""
    with pair("TCP") as (sock, peer):
        monkeypatch.setattr(portable, "_RDHUP", 0)
        peer.sendall(b"x")
        eventually(lambda: sock.recv(1, socket.MSG_PEEK))
        counts = iter([0, 0, 1])
        monkeypatch.setattr(portable, "count_unread", lambda _: next(counts, 1))
        assert read_stamps(sock, Books(0.0), 0.0).state == ESTABLISHED


class Windows(socket.socket):
    """A socket of a Windows before 10, which has one question for what others have three options."""

    asked: tuple[object, ...] = ()

    def ioctl(self, *asked: object) -> None:
        self.asked = asked


def test_old_windows_gets_its_keepalive_by_one_question(monkeypatch):
    """On, idle and interval in milliseconds; the count cannot be chosen there."""
    for name in ("IDLE", "INTERVAL", "COUNT", "USER_TIMEOUT"):
        monkeypatch.setattr(keepalive, name, None)
    monkeypatch.setattr(keepalive, "_OPTIONS", (None,) * 4)
    monkeypatch.setattr(keepalive, "VALUES", 0x98000004)
    keepalive._read_defaults.cache_clear()  # noqa: SLF001
    with Windows() as sock:
        assert apply_keepalive(sock, Keepalive(idle=60, interval=15, count=4))
        assert sock.asked == (0x98000004, (1, 60_000, 15_000))
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    keepalive._read_defaults.cache_clear()  # noqa: SLF001


def test_macos_has_another_name_for_idle():
    """Python calls it TCP_KEEPALIVE there, and has the other two names."""
    done = run_elsewhere(
        "darwin",
        "import sockguard._kernel.keepalive as k; print(k.IDLE, k.INTERVAL is None, k.COUNT is None, k.USER_TIMEOUT)",
        first="import _socket, socket; socket.TCP_KEEPALIVE = 0x10\n",
    )
    assert (done.stdout, done.stderr) == ("16 False False None\n", "")
