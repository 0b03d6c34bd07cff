"""GuardedSocket is a socket as any other, closes what is over on the call that finds out, and loses no byte."""

import contextlib
import errno
import io
import os
import pickle
import select
import selectors
import signal
import socket
import ssl
import sys
import threading
import time

import pytest

import sockguard
from forks import fork, succeeded
from guarded import accepted_by_two_lines
from loopback import connect, listen, reset, state_of
from loops import client_tls, server_tls
from redis_server import command, start_redis
from sockguard import _process
from sockguard._core.policy import Heartbeat, Keepalive, Policy
from sockguard._engine.current import set_current_guard, set_maker
from sockguard._engine.sockets.in_use import is_in_use
from sockguard._kernel.backend import KERNEL_KEEPS_BOOKS
from sockguard.errors import UsageError
from waiting import eventually
from wrapped import pair, shared

CLOSE_WAIT = 8
kernel_only = pytest.mark.skipif(not KERNEL_KEEPS_BOOKS, reason="needs what only the kernel's books tell")
PAST = "sockguard ended this connection: "


@pytest.fixture(autouse=True)
def d():
    """A guard that does nothing but at `d.tick()`."""
    with shared() as d:
        yield d


def read_file(sock, _size):
    with sock.makefile("rb") as file:
        return file.read()


RECEIVE = {
    "recv": lambda s, n: s.recv(n),
    "recv_into": lambda s, n: s.recv_into(bytearray(n)),
    "recvfrom": lambda s, n: s.recvfrom(n),
    "recvfrom_into": lambda s, n: s.recvfrom_into(bytearray(n)),
    "recvmsg": lambda s, n: s.recvmsg(n),
    "recvmsg_into": lambda s, n: s.recvmsg_into([bytearray(n)]),
    "a file": read_file,
}
SEND = {
    "send": lambda s: s.send(b"x"),
    "sendall": lambda s: s.sendall(b"x"),
    "sendto": lambda s: s.sendto(b"x", ("127.0.0.1", 9)),
    "sendmsg": lambda s: s.sendmsg([b"x"]),
}


def ended(sock) -> bool:
    """Tells whether a socket object has no descriptor any more; asked in a way that does not hand its number out."""
    return " fd=-1," in repr(sock)


def hang_up(p) -> None:
    """Has the client close, and waits until that has arrived."""
    p.client.close()
    eventually(lambda: state_of(p.server) == CLOSE_WAIT)


def reset_by_peer(p) -> None:
    """Has the client reset, and waits until that has arrived."""
    reset(p.client)
    eventually(lambda: state_of(p.server) == 7)


# --- It is a socket ---


def test_it_is_a_socket():
    """By isinstance; in select, poll and selectors; its copies are such sockets, too; and it is not pickled."""
    with pair() as p, p.server.dup() as copy, selectors.DefaultSelector() as selector:
        assert [type(s) for s in (p.listener, p.server, copy)] == [sockguard.GuardedSocket] * 3
        assert isinstance(p.server, socket.socket)
        selector.register(p.server, selectors.EVENT_READ)
        p.client.sendall(b"hello")
        assert [key.fileobj for key, _ in selector.select(5)] == [p.server]
        assert select.select([p.server], [], [], 0)[0] == [p.server]
        assert copy.recv(2) + p.server.recv(9) == b"hello"
        with pytest.raises(TypeError, match="cannot pickle"):
            pickle.dumps(p.server)


@pytest.mark.parametrize("how", RECEIVE)
def test_all_ways_to_receive_give_what_the_original_gives(how):
    """With bytes, at the peer's end, and after it."""
    results = []
    with pair(half_close="allow") as p, connect() as plain:
        for client, server in ((p.client, p.server), (plain.client, plain.server)):
            client.sendall(b"hello")
            if how == "a file":
                client.shutdown(socket.SHUT_WR)
            first = RECEIVE[how](server, 9)
            client.close()
            results.append([first, RECEIVE[how](server, 9), RECEIVE[how](server, 9)])
    assert results[0] == results[1]
    first = results[0][0]
    assert (first[0] if isinstance(first, tuple) else first) in (b"hello", 5)


@pytest.mark.parametrize("how", SEND)
def test_all_ways_to_send_arrive(how):
    """Byte for byte."""
    with pair() as p:
        SEND[how](p.server) if how != "sendto" else p.server.sendto(b"x", p.client.getsockname())
        assert p.client.recv(9) == b"x"


def test_files_are_sent_and_read(tmp_path):
    """sendfile() with its offset and count, and a file of makefile() in both directions."""
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 1024)
    with pair() as p, path.open("rb") as file, p.server.makefile("rw", newline="\n") as text:
        assert p.server.sendfile(file, 256, 512) == 512
        assert p.client.recv(512, socket.MSG_WAITALL) == bytes(range(256)) * 2
        assert p.server.sendfile(io.BytesIO(b"no file")) == 7
        assert p.client.recv(9) == b"no file"
        p.client.sendall(b"line\n")
        assert text.readline() == "line\n"
        text.write("answer\n")
        text.flush()
        assert p.client.recv(9) == b"answer\n"


def test_datagrams_and_listeners_are_as_ever():
    """A datagram of no bytes is no end, and a refusal closes nothing."""
    policy = Policy(half_close="close")
    kind = (socket.AF_INET, socket.SOCK_DGRAM)
    with sockguard.GuardedSocket(*kind, policy=policy) as one, socket.socket(*kind) as other:
        one.bind(("127.0.0.1", 0))
        other.sendto(b"", one.getsockname())
        assert one.recv(9) == b""
        assert not ended(one)
        one.connect(other.getsockname())
        other.close()
        one.send(b"x")
        with pytest.raises(ConnectionRefusedError):
            eventually(lambda: one.send(b"x") and None)
        assert not ended(one)
    with sockguard.create_server(("127.0.0.1", 0), policy=policy) as listener:
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()
        assert listener.fileno() >= 0


def test_a_socket_that_is_forgotten_warns_and_is_closed():
    """As the original does; the guard keeps it alive as little."""
    with pair() as p:
        fd = p.server.dup().detach()
        forgotten = [sockguard.GuardedSocket(fileno=fd)]
        with pytest.warns(ResourceWarning, match="GuardedSocket fd="):
            forgotten.clear()
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)


def test_its_text_shows_what_the_original_shows():
    """Class, descriptor, family, type and both names, but nothing of them when it is closed."""
    with pair() as p:
        plain = socket.socket(p.server.family, p.server.type, p.server.proto, p.server.fileno())
        original = repr(plain)
        plain.detach()
        assert repr(p.server).partition(" fd=")[2] == original.partition(" fd=")[2]
        p.server.close()
        assert "[closed] fd=-1" in repr(p.server)


# --- Its end, on the call that finds out ---


@pytest.mark.parametrize("how", RECEIVE)
def test_the_peers_end_closes_on_that_call_where_the_policy_says_so(how):
    """With `half_close="close"`; the call and all others like it give the end, and the peer gets our FIN."""
    with pair(half_close="close") as p:
        p.client.sendall(b"last words")
        p.client.shutdown(socket.SHUT_WR)
        eventually(lambda: state_of(p.server) == CLOSE_WAIT)
        nothing = {"recvmsg": (b"", [], 0, None), "recvmsg_into": (0, [], 0, None)}
        first = RECEIVE[how](p.server, 4)
        assert ended(p.server) is (how == "a file")
        while not ended(p.server):
            last = RECEIVE[how](p.server, 4)
        if how != "a file":
            assert first != last == nothing.get(how, last)
            assert RECEIVE[how](p.server, 4) == last
        assert p.client.recv(9) == b""


@pytest.mark.parametrize("how", SEND)
def test_sending_after_the_end_says_why(how):
    """An error of a connection, as programs expect it; names can still be asked for, and closing is no error."""
    with pair(half_close="close") as p:
        names = p.server.getsockname(), p.server.getpeername()
        hang_up(p)
        assert p.server.recv(9) == b""
        with pytest.raises(ConnectionAbortedError, match=f"{PAST}its peer has closed its side") as caught:
            SEND[how](p.server)
        assert caught.value.errno == errno.ECONNABORTED
        assert (p.server.getsockname(), p.server.getpeername()) == names
        p.server.shutdown(socket.SHUT_RDWR)
        assert p.server.connection.state == "closed"
        p.server.close()


@pytest.mark.parametrize("half_close", ["drain", "allow"])
def test_the_peers_end_leaves_the_connection_usable_otherwise(half_close):
    """The application may go on sending."""
    with pair(half_close=half_close) as p:
        p.client.shutdown(socket.SHUT_WR)
        assert p.server.recv(9) == b""
        p.server.sendall(b"answer")
        assert p.client.recv(9) == b"answer"
        assert not ended(p.server)


@pytest.mark.needs_books
def test_what_is_not_the_peers_end_is_not_taken_for_it():
    """A wish for no bytes, our own shutdown of receiving, and the look at a stream that has bytes."""
    with pair(half_close="close") as p:
        p.client.sendall(b"x")
        assert (p.server.recv(0), p.server.recv_into(bytearray()), p.server.recvmsg(0)[0]) == (b"", 0, b"")
        assert p.server.recv(1, socket.MSG_PEEK) == b"x"
        assert p.server.recv(1) == b"x"
        with p.server.dup() as copy:
            copy.shutdown(socket.SHUT_RD)
        assert (p.server.recv(9), ended(p.server)) == (b"", False)
        hang_up(p)
        assert (p.server.recv(0), ended(p.server)) == (b"", False)
        assert (p.server.recv(1), ended(p.server)) == (b"", True)


@pytest.mark.parametrize("call", [*RECEIVE.values(), SEND["send"]], ids=[*RECEIVE, "send"])
def test_a_reset_closes_on_that_call_and_is_raised_as_it_is(call):
    """With every policy: there is nothing left of the connection."""
    with pair() as p:
        reset_by_peer(p)
        with pytest.raises(ConnectionResetError):
            call(p.server) if call is SEND["send"] else call(p.server, 9)
        assert ended(p.server)
        with pytest.raises(ConnectionAbortedError, match=f"{PAST}it is over since a call failed with .*reset by peer"):
            p.server.recv(9)


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
@pytest.mark.needs_books
def test_the_peer_of_a_connection_that_was_reset_is_told(family):
    """In the form of the original; the kernel's getpeername() does not tell it any more by then."""
    with pair(family=family) as p:
        names = p.server.getpeername(), p.server.getsockname()
        reset_by_peer(p)
        with pytest.raises(ConnectionResetError):
            p.server.recv(9)
        assert (p.server.getpeername(), p.server.getsockname()) == names
        assert type(p.server.getpeername()) is tuple


def test_what_was_received_before_a_reset_can_still_be_read():
    """It is closed by the call that finds nothing left."""
    with pair() as p:
        p.client.sendall(b"last words")
        reset_by_peer(p)
        with pytest.raises(ConnectionResetError):
            p.server.send(b"x")
        assert not ended(p.server)
        assert p.server.recv(99) == b"last words"
        assert not ended(p.server)
        assert p.server.recv(99) == b""
        assert ended(p.server)


def test_what_is_no_error_closes_nothing():
    """Time-outs, what would block, calls that make no sense, and a connect() that was refused."""
    with pair() as p:
        p.server.settimeout(0.01)
        with pytest.raises(TimeoutError):
            p.server.recv(9)
        p.server.setblocking(False)
        with pytest.raises(BlockingIOError):
            p.server.recv(9)
        with pytest.raises(BlockingIOError):
            eventually(lambda: p.server.send(b"x" * 65536) and None)
        with pytest.raises(TypeError):
            p.server.send("text")
        assert not ended(p.server)
    with listen() as listener:
        address = listener.getsockname()
        with sockguard.GuardedSocket() as client:
            with pytest.raises(OSError, match="not connected"):
                client.recv(9)
            listener.close()
            with pytest.raises(ConnectionRefusedError):
                client.connect(address)
            assert not ended(client)


@pytest.mark.needs_books
@pytest.mark.parametrize("half_close", ["drain", "close"])
def test_a_socket_whose_connect_failed_can_connect_again(half_close):
    """Linux gives an end of the stream where nothing ever was, once SO_ERROR was read: that is no end either."""
    with listen() as listener:
        address = listener.getsockname()
    with sockguard.GuardedSocket(policy=Policy(half_close=half_close)) as client:
        client.setblocking(False)
        client.connect_ex(address)
        assert eventually(lambda: client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)) == errno.ECONNREFUSED
        assert (client.recv(9), ended(client)) == (b"", False)
        with socket.create_server(address) as listener:
            eventually(lambda: client.connect_ex(address) in (0, errno.EISCONN))
            with listener.accept()[0] as server:
                client.sendall(b"hello")
                assert server.recv(9) == b"hello"


def test_our_own_shutdown_is_no_end_of_the_connection():
    """EPIPE after shutdown(SHUT_WR) says nothing of what the peer may still send."""
    with pair() as p:
        p.server.shutdown(socket.SHUT_WR)
        with pytest.raises(BrokenPipeError):
            p.server.send(b"x")
        p.client.sendall(b"more")
        assert p.server.recv(9) == b"more"


def test_observing_ends_nothing():
    """Neither at the peer's end nor at an error, nor does it drain."""
    with pair(mode="observe", half_close="close") as p:
        hang_up(p)
        assert (p.server.recv(9), ended(p.server)) == (b"", False)
    with pair(mode="observe") as p:
        reset_by_peer(p)
        with pytest.raises(ConnectionResetError):
            p.server.recv(9)
        assert not ended(p.server)


# --- Ended by the guard ---


def test_what_the_guard_has_ended_is_released_and_says_why(d):
    """A half-closed connection of which nobody takes care: its descriptor is free again, and the next call is told."""
    with pair(fin_timeout=5) as p:
        hang_up(p)
        assert p.server.recv(9) == b""
        for _ in range(4):
            d.tick(5)
        assert ended(p.server)
        with pytest.raises(ConnectionAbortedError, match=rf"{PAST}its peer had hung up .* \(fin_timeout=5\)"):
            p.server.send(b"x")
        assert "hung up" in p.server.connection.ended_by
        assert d.closed() == [("half_closed", "shut_down")]


def test_a_number_that_was_handed_out_is_not_released_by_the_guard(d):
    """It may be registered in a selector. What finds the end from then on says so, and close() is the program's."""
    with pair(fin_timeout=5) as p:
        fd = p.server.fileno()
        hang_up(p)
        for _ in range(4):
            d.tick(5)
        assert os.fstat(fd)
        assert p.server.recv(9) == b""
        for call in (RECEIVE["recv"], RECEIVE["recv_into"], lambda sock, _: sock.send(b"x")):
            with pytest.raises(ConnectionAbortedError, match=f"{PAST}its peer had hung up"):
                call(p.server, 9)
        assert os.fstat(fd)
        p.server.close()
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)


def test_unread_bytes_are_not_thrown_away_by_the_guard(d):
    """They can be read after it has ended the connection, and then it is released."""
    with pair(idle_timeout=5) as p:
        p.client.sendall(b"last words")
        eventually(lambda: p.server.connection.facts.unread)
        for _ in range(8):
            d.tick(60)
        assert (d.closed() != [], ended(p.server)) == (True, False)
        assert p.server.recv(99) == b"last words"
        assert p.server.recv(99) == b""
        assert ended(p.server)


def test_a_thread_that_waits_in_a_call_is_woken_and_releases_it(d):
    """The guard leaves the descriptor to it, as long as it is inside of the call."""
    got = []
    with pair(idle_timeout=5) as p:
        thread = threading.Thread(target=lambda: got.append(p.server.recv(9)), daemon=True)
        thread.start()
        eventually(lambda: is_in_use(p.server))
        for _ in range(4):
            d.tick(5)
        thread.join(20)
        assert got == [b""]
        assert not is_in_use(p.server)
        assert ended(p.server)


def test_while_a_thread_is_inside_nothing_is_released():
    """Whoever finds the end wakes the others; the number stays theirs until they are out."""
    with pair(half_close="close") as p:
        p.client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        errors = []

        def send():
            try:
                p.server.sendall(b"x" * 50_000_000)
            except OSError as error:
                errors.append(type(error))

        thread = threading.Thread(target=send, daemon=True)
        thread.start()
        eventually(lambda: (is_in_use(p.server) and not select.select([], [p.client], [], 0)[0]) or is_in_use(p.server))
        p.client.shutdown(socket.SHUT_WR)
        assert p.server.recv(9) == b""
        thread.join(20)
        assert errors in ([BrokenPipeError], [ConnectionAbortedError])
        assert eventually(lambda: ended(p.server) or p.server.recv(9) != b"" or ended(p.server))


def test_numbers_are_never_mixed_up():
    """Threads that receive while connections are ended under them: none sees a byte of another connection."""
    wrong = []

    def use(server, own):
        with contextlib.suppress(OSError):
            while data := server.recv(64):
                if set(data) != {own}:
                    wrong.append(data)

    for n in range(60):
        with pair(half_close="close") as p:
            threads = [threading.Thread(target=use, args=(p.server, n + 1), daemon=True) for _ in range(2)]
            for thread in threads:
                thread.start()
            p.client.sendall(bytes([n + 1]) * 1000)
            p.client.close()
            with pair() as other:  # is likely to get the number
                other.client.sendall(b"\xff" * 100)
                for thread in threads:
                    thread.join(20)
                assert other.server.recv(100, socket.MSG_WAITALL) == b"\xff" * 100
    assert wrong == []


# --- Drain before close ---


def answer_and_close(server) -> None:
    server.sendall(b"answer" * 1000)
    server.close()


def upload(client) -> bytes:
    """Sends more than is read, then reads the answer."""
    client.sendall(b"x" * 20000)
    with contextlib.suppress(ConnectionResetError):
        return client.recv(6000, socket.MSG_WAITALL) + client.recv(1)
    return b"reset"


def test_closing_with_unread_bytes_is_no_reset(d):
    """The peer gets the whole answer and an orderly end; close() does not wait; the plain socket resets."""
    with pair() as p:
        p.client.sendall(b"x" * 20000)
        eventually(lambda: p.server.connection.facts.unread == 20000)
        answer_and_close(p.server)
        assert p.client.recv(6000, socket.MSG_WAITALL) == b"answer" * 1000
        p.client.sendall(b"more")
        d.tick()
        assert p.client.recv(1) == b""
        p.client.close()
        eventually(lambda: (d.tick(), len(d.guard.lingering) == 0)[1])
    with connect() as plain:
        plain.client.sendall(b"x" * 20000)
        answer_and_close(plain.server)
        with pytest.raises(ConnectionResetError):
            eventually(lambda: plain.client.send(b"more") and None)


@pytest.mark.parametrize("is_by_system", [True, False], ids=["by the system", "by send"])
def test_who_sent_a_file_and_closes_with_unread_bytes_resets_nothing_either(d, tmp_path, is_by_system):
    """The original asks for its own number on the way, and for whether a child inherits it: nobody is told it."""
    (tmp_path / "file").write_bytes(b"answer" * 1000)
    with pair() as p, (tmp_path / "file").open("rb") as file:
        p.client.sendall(b"x" * 20000)
        eventually(lambda: p.server.connection.facts.unread == 20000)
        assert p.server.sendfile(file if is_by_system else io.BytesIO(file.read())) == 6000
        assert (p.server.get_inheritable(), p.server.is_handed_out) == (False, False)
        p.server.close()
        assert len(d.guard.lingering) == 1
        assert p.client.recv(6000, socket.MSG_WAITALL) == b"answer" * 1000
        assert p.client.recv(1) == b""


def test_a_number_that_is_asked_for_while_a_file_is_sent_is_handed_out(tmp_path):
    """By whom it may be: here by the file, which is asked for its own number in the midst of it."""
    (tmp_path / "file").write_bytes(b"x")
    with pair() as p, (tmp_path / "file").open("rb") as file:

        class Curious:
            """A file that asks."""

            mode, seek, fileno = "rb", file.seek, lambda _: (p.server.fileno(), file.fileno())[1]

        p.server.sendfile(Curious())
        assert p.server.is_handed_out


@pytest.mark.parametrize("fields", [{"drain_timeout": None}, {"mode": "observe"}])
def test_draining_can_be_turned_off(d, fields):
    """Then close() is that of the original."""
    with pair(**fields) as p:
        p.client.sendall(b"x")
        eventually(lambda: p.server.connection.facts.unread)
        p.server.close()
        assert len(d.guard.lingering) == 0


def test_who_wants_a_reset_gets_one(d):
    """SO_LINGER of the application's own wins."""
    with pair() as p:
        p.client.sendall(b"x")
        eventually(lambda: p.server.connection.facts.unread)
        reset(p.server)
        with pytest.raises(ConnectionResetError):
            p.client.recv(1)


@pytest.mark.slow
def test_a_parent_that_closes_does_not_end_what_its_child_serves():
    """Neither by draining nor by shutting down, also when the request lies there unread."""
    with pair() as p:
        p.client.sendall(b"request")
        eventually(lambda: p.server.connection.facts.unread)

        def serve() -> bool:
            time.sleep(0.2)
            p.server.sendall(b"answer to " + p.server.recv(99))
            return True

        child = fork(serve)
        p.server.close()
        assert p.client.recv(99) == b"answer to request"
        assert succeeded(child)


# --- How it comes to be ---


def test_each_line_that_accepts_from_a_listener_is_told_as_such(d):
    """As by a plain socket under install()."""
    with sockguard.create_server(("127.0.0.1", 0)) as listener:
        sites = accepted_by_two_lines(d, listener)
    assert [site.frames()[0].rpartition(" ")[2] for site in sites] == ["here", "there", "there", "here"]


def test_keepalive_is_on_the_listener_and_inherited():
    """Before the guard has looked at anything; what the policy leaves out is not set."""
    with pair(keepalive=Keepalive(idle=77, interval=7, count=3)) as p:
        options = [p.server.getsockopt(socket.IPPROTO_TCP, n) for n in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL)]
        assert (p.server.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE), options) == (1, [77, 7])
    for fields in ({"keepalive": None}, {"mode": "observe"}):
        with pair(**fields) as p:
            assert p.server.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 0


@pytest.mark.parametrize("timeout", [None, 0.0, 7.5])
def test_a_plain_socket_becomes_a_guarded_one(d, timeout):
    """Time-out, descriptor, inheritance and options stay; the plain one has no descriptor any more."""
    policy = Policy(idle_timeout=7)
    with connect() as c:
        c.server.settimeout(timeout)
        c.server.set_inheritable(True)
        c.server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        fd = c.server.fileno()
        with sockguard.guard_socket(c.server, policy) as guarded:
            assert (guarded.fileno(), c.server.fileno()) == (fd, -1)
            assert (guarded.gettimeout(), guarded.get_inheritable()) == (timeout, True)
            assert (guarded.family, guarded.type, guarded.proto) == (socket.AF_INET, socket.SOCK_STREAM, 0)
            assert guarded.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
            assert guarded.connection.policy is policy
            for _ in range(4):
                d.tick(7)
            assert d.closed() == [("idle", "shut_down")]


@kernel_only
def test_which_side_opened_it_is_found_out(d):
    """For a client that becomes guarded when it is connected already."""
    with connect() as c, sockguard.guard_socket(c.client) as guarded:
        c.server.sendall(b"x")
        d.tick()
        assert d.guard.registry.by_fd[guarded.fileno()].is_server is False


def test_a_listener_goes_on_listening():
    """And what it accepts is guarded by the policy that it got."""
    policy = Policy(idle_timeout=7)
    with listen() as plain:
        address = plain.getsockname()
        with (
            sockguard.guard_socket(plain, policy) as listener,
            socket.create_connection(address),
            listener.accept()[0] as server,
        ):
            assert (type(server), server.connection.policy) == (sockguard.GuardedSocket, policy)


def test_a_guarded_socket_gets_other_terms(d):
    """The same object, with another policy, which holds from then on."""
    with pair(idle_timeout=5) as p:
        assert sockguard.guard_socket(p.server, Policy(idle_timeout=500)) is p.server
        d.tick()
        d.tick(60)
        d.tick(60)
        assert (p.server.connection.policy.idle_timeout, d.closed()) == (500, [])


def test_what_cannot_be_guarded_is_refused_with_a_remedy():
    """No socket, a closed one, one under TLS, one whose file is in use, and what is no policy."""
    with pytest.raises(UsageError, match="give a socket"):
        sockguard.guard_socket(7)
    for closed in (socket.socket(), sockguard.GuardedSocket()):
        closed.close()
        with pytest.raises(UsageError, match="it is closed"):
            sockguard.guard_socket(closed)
    with socket.socket() as sock:
        with pytest.raises(UsageError, match=r"is no sockguard\.Policy"):
            sockguard.guard_socket(sock, {"idle_timeout": 7})
        tls = ssl.create_default_context().wrap_socket(sock, server_hostname="x")
        with tls, pytest.raises(UsageError, match="guard first"):
            sockguard.guard_socket(tls)
    with connect() as c, c.server.makefile("rb"), pytest.raises(UsageError, match="makefile"):
        sockguard.guard_socket(c.server)
    with pytest.raises(UsageError, match=r"is no sockguard\.Policy"):
        sockguard.create_server(("127.0.0.1", 0), policy=7)
    with pytest.raises(UsageError, match=r"is no sockguard\.Policy"):
        sockguard.GuardedSocket(policy=7)


@pytest.mark.parametrize("how", ["connect", "connect_ex", "without waiting"])
def test_what_connects_is_guarded(d, how):
    """As a client, once it is through, by its policy."""
    with listen() as listener, sockguard.GuardedSocket(policy=Policy(idle_timeout=7)) as client:
        if how == "without waiting":
            client.setblocking(False)
            eventually(lambda: client.connect_ex(listener.getsockname()) in (0, errno.EISCONN))
        else:
            getattr(client, how)(listener.getsockname())
        with listener.accept()[0]:
            for _ in range(4):
                d.tick(7)
            (event,) = d.told("connection_closed")
            assert (event.fields["reason"], event.fields["side"]) == ("idle", "client")


@kernel_only
def test_a_descriptor_that_is_handed_on_stays_guarded(d):
    """Under TLS, by the policy of the socket that was wrapped."""
    server_context, client_context = server_tls(), client_tls()
    with pair(idle_timeout=5) as p:
        done = []

        def shake():
            with client_context.wrap_socket(p.client, server_hostname="localhost") as tls:
                done.append(tls.recv(9))

        thread = threading.Thread(target=shake, daemon=True)
        thread.start()
        with server_context.wrap_socket(p.server, server_side=True) as tls:
            assert (type(tls), p.server.fileno()) == (ssl.SSLSocket, -1)
            for _ in range(4):
                d.tick(5)
            thread.join(20)
            assert d.closed() == [("idle", "shut_down")]


@pytest.mark.needs_books
@pytest.mark.parametrize("how", ["by its method", "by its number"])
def test_a_duplicate_has_the_policy_of_the_original(how):
    """Also one that nobody has announced, once the original is closed: it is known by the kernel's cookie."""
    with shared(idle_timeout=1000) as d, pair(idle_timeout=5) as p:
        d.tick()
        other = p.server.dup() if how == "by its method" else socket.fromfd(p.server.fileno(), p.server.family, 1)
        with other:
            p.server.close()
            d.guard._sweep._established._due_at = 0  # noqa: SLF001 - it finds what nobody has announced
            for _ in range(6):
                d.tick(3)
            ended_by = [(e.fields["reason"], e.fields["limit"]) for e in d.told("connection_closed")]
            assert ended_by == [("idle", 5)]


def test_numbers_of_the_connection():
    """Bytes both ways and the last that moved, as the kernel has them, without a count on the way."""
    before = time.monotonic()
    with pair() as p:
        p.client.sendall(b"hello")
        p.server.recv(9)
        p.server.sendall(b"hi")
        assert (p.server.bytes_received, p.server.bytes_sent) == (5, 2)
        assert before - 0.1 <= p.server.last_update <= time.monotonic()
        assert (p.server.connection.state, p.server.connection.rtt) == ("open", None)
        p.server.connection.expect_open("a feed")


# --- Where the kernel keeps no books ---


@pytest.fixture
def unix():
    """A guarded end and a plain one."""
    one, other = socket.socketpair(socket.AF_UNIX)
    with sockguard.guard_socket(one, Policy(half_close="drain")) as guarded, other:
        yield guarded, other


@pytest.mark.parametrize("how", [how for how in RECEIVE if how != "a file"])
def test_what_a_unix_socket_receives_is_counted(unix, how):
    """By all ways, and not twice when it is only looked at."""
    guarded, other = unix
    other.sendall(b"hello")
    guarded.recv(3, socket.MSG_PEEK)
    RECEIVE[how](guarded, 3)
    assert guarded.bytes_received == 3
    RECEIVE[how](guarded, 3)
    assert guarded.bytes_received == 5


def test_what_a_unix_socket_sends_is_counted(unix, tmp_path):
    """By all ways, large ones included."""
    guarded, other = unix
    got = []
    thread = threading.Thread(target=lambda: got.append(len(read_file(other, 0))), daemon=True)
    thread.start()
    (tmp_path / "file").write_bytes(b"x" * 1000)
    guarded.sendall(b"x" * 1_000_000)
    guarded.send(b"x")
    guarded.sendmsg([b"x", b"x"])
    with (tmp_path / "file").open("rb") as file:
        guarded.sendfile(file)
    assert guarded.bytes_sent == 1_001_003
    guarded.shutdown(socket.SHUT_WR)
    thread.join(20)
    assert got == [1_001_003]


def test_a_unix_socket_keeps_its_time_out(unix):
    """The time-out of sendall() holds for all of it."""
    guarded, _ = unix
    guarded.settimeout(0.05)
    with pytest.raises(TimeoutError):
        guarded.sendall(b"x" * 10_000_000)
    with pytest.raises(TimeoutError):
        guarded.recv(1)
    guarded.setblocking(False)
    with pytest.raises(BlockingIOError):
        guarded.sendall(b"x" * 10_000_000)
    assert not ended(guarded)


def test_descriptors_arrive_over_a_unix_socket(unix):
    """Those that are sent beside bytes."""
    guarded, other = unix
    with pair() as p:
        socket.send_fds(other, [b"x"], [p.client.fileno()])
        data, fds, *_ = socket.recv_fds(guarded, 9, 1)
        assert data == b"x"
        with socket.socket(fileno=fds[0]) as received:
            assert received.getsockname() == p.client.getsockname()


def test_a_unix_socket_whose_peer_is_gone_is_closed_by_the_call_that_fails(unix):
    """It takes no more and gives no more. After our own shutdown the same error says nothing."""
    guarded, other = unix
    guarded.shutdown(socket.SHUT_WR)
    with pytest.raises(BrokenPipeError):
        guarded.send(b"x")
    assert not ended(guarded)
    one, other = socket.socketpair(socket.AF_UNIX)
    with sockguard.guard_socket(one) as guarded:
        other.close()
        with pytest.raises(BrokenPipeError):
            guarded.send(b"x")
        assert ended(guarded)


def test_a_unix_socket_that_does_not_want_to_receive_is_no_peer_that_has_ended():
    """Both look alike, so the wrapper remembers."""
    one, other = socket.socketpair(socket.AF_UNIX)
    with sockguard.guard_socket(one, Policy(half_close="close")) as guarded, other:
        guarded.shutdown(socket.SHUT_RD)
        assert (guarded.recv(9), ended(guarded)) == (b"", False)
        guarded.sendall(b"x")
        assert other.recv(9) == b"x"


def test_the_end_of_a_unix_peer_closes_where_the_policy_says_so():
    """As for TCP."""
    one, other = socket.socketpair(socket.AF_UNIX)
    with sockguard.guard_socket(one, Policy(half_close="close")) as guarded, other:
        other.sendall(b"x")
        other.shutdown(socket.SHUT_WR)
        assert (guarded.recv(9), ended(guarded)) == (b"x", False)
        assert (guarded.recv(9), ended(guarded)) == (b"", True)


# --- With a heartbeat ---

BEAT = Heartbeat(b"ping\n", 5, 5, b"pong\n")


@pytest.fixture
def beating(d):
    """A guarded client with a heartbeat, its server's end, and the guard."""
    with listen() as listener, sockguard.GuardedSocket(policy=Policy(heartbeat=BEAT)) as client:
        client.connect(listener.getsockname())
        with listener.accept()[0] as server:
            server.settimeout(20)
            yield client, server, d


def heart_of(sock):
    """Gives the heart of a socket."""
    return sock.connection._terms.heart  # noqa: SLF001


def ask(client, server, d) -> None:
    """Lets time pass until the question arrives."""
    eventually(lambda: (d.tick(1), select.select([server], [], [], 0.01)[0])[1])
    assert server.recv(99) == b"ping\n"


def test_an_idle_connection_is_asked_and_the_answer_does_not_stay(beating):
    """Nobody receives, as in a pool: nothing is left in the queue, and the next reply is the application's own."""
    client, server, d = beating
    for _ in range(3):
        ask(client, server, d)
        server.sendall(b"pong\n")
        eventually(lambda: (d.tick(0.25), heart_of(client).state.value == "waiting")[1])
    assert client.connection.rtt is not None
    client.setblocking(False)
    with pytest.raises(BlockingIOError):
        client.recv(9)
    server.sendall(b"reply\n")
    client.settimeout(20)
    assert client.recv(99) == b"reply\n"


@pytest.mark.parametrize("how", [how for how in RECEIVE if how != "a file"])
def test_the_answer_is_taken_out_of_what_is_received(beating, how):
    """A thread waits in a call: it gets the bytes of the application's and no other, in all ways to receive."""
    client, server, d = beating
    got = []
    thread = threading.Thread(target=lambda: got.append(RECEIVE[how](client, 99)), daemon=True)
    thread.start()
    ask(client, server, d)
    server.sendall(b"pong\n")
    assert eventually(lambda: heart_of(client).n_answered) == 1
    assert got == []
    server.sendall(b"data\n")
    thread.join(20)
    (result,) = got
    assert (result[0] if isinstance(result, tuple) else result) in (b"data\n", 5)


def test_bytes_around_an_answer_arrive_whole_and_in_order(beating):
    """However little is received at a time, and with MSG_WAITALL."""
    client, server, d = beating
    ask(client, server, d)
    server.sendall(b"before\npong\nafter\npo")
    server.sendall(b"ng\nend")
    got = b"".join(client.recv(3) for _ in range(3))
    assert got + client.recv(21 - len(got), socket.MSG_WAITALL) == b"before\nafter\npong\nend"


def test_time_outs_hold_though_answers_come(beating):
    """An answer is none of the application's bytes, so it renews no time-out; and what would block, blocks."""
    client, server, d = beating
    client.settimeout(0.3)

    def is_kept() -> bool:
        ask(client, server, d)
        timer = threading.Timer(0.15, server.sendall, [b"pong\n"])
        timer.start()
        started = time.monotonic()
        with pytest.raises(TimeoutError):
            client.recv(9)
        took = time.monotonic() - started
        timer.join()
        assert took > 0.29
        return took < 0.44  # unless it had to wait for the processor

    eventually(is_kept)


def test_a_peer_that_answers_nothing_is_ended(beating):
    """The reason is said in the event and to the application."""
    client, server, d = beating
    ask(client, server, d)
    for _ in range(30):
        d.tick(1)
    assert d.closed() == [("heartbeat", "shut_down")]
    assert ended(client)
    for call in (RECEIVE["recv_into"], lambda sock, _: sock.sendall(b"x")):
        with pytest.raises(ConnectionAbortedError, match="had not answered a heartbeat"):
            call(client, 9)


@pytest.mark.parametrize("timeout", [None, 5.0, 0.0])
def test_a_closed_socket_with_a_heartbeat_says_so(beating, timeout):
    """With the error of the original."""
    client, _, d = beating
    client.settimeout(timeout)
    client.close()
    for call in (client.recv, client.sendall):
        with pytest.raises(OSError, match="Bad file descriptor"):
            call(9 if call == client.recv else b"x")
    for _ in range(10):
        d.tick(1)


def test_what_lies_unread_excuses_the_silence(beating):
    """The answer may stand behind it: nobody is lost while the application does not read."""
    client, server, d = beating
    ask(client, server, d)
    server.sendall(b"unread\n")
    eventually(lambda: client.connection.facts.unread == 7)
    for _ in range(30):
        d.tick(1)
    assert d.closed() == []
    server.sendall(b"pong\n")
    assert client.recv(99) == b"unread\n"


def test_no_question_goes_into_a_message(beating):
    """While it is sent in parts."""
    client, server, d = beating
    with client.connection.sending():
        client.sendall(b"one ")
        for _ in range(20):
            d.tick(1)
        client.sendall(b"message")
    assert server.recv(99) == b"one message"


def test_who_only_observes_sends_nothing():
    """A heartbeat would be a touch."""
    policy = Policy(heartbeat=BEAT, mode="observe")
    with shared() as d, listen() as listener, sockguard.GuardedSocket(policy=policy) as client:
        client.connect(listener.getsockname())
        with listener.accept()[0] as server:
            for _ in range(20):
                d.tick(1)
            server.setblocking(False)
            with pytest.raises(BlockingIOError):
                server.recv(9)


@pytest.fixture
def own_guard():
    """Lets the guard of this process be the one that is used, with its thread."""
    set_maker(_process._share)  # noqa: SLF001
    yield
    _process.end()


def test_who_waits_for_bytes_beside_a_heart_is_inside_of_a_call(beating):
    """So its descriptor is not released when the guard ends the connection: it is woken, and finds the end as ever."""
    client, *_ = beating
    got = []
    thread = threading.Thread(target=lambda: got.append(client.recv(9)), daemon=True)
    thread.start()
    eventually(lambda: sys._current_frames()[thread.ident].f_code.co_name == "is_ready")  # noqa: SLF001
    assert all(is_in_use(client) for _ in range(20))
    client.let_go("for a test")
    thread.join(20)
    assert (got, ended(client)) == ([b""], True)


@pytest.mark.slow
def test_a_client_of_redis_idles_in_its_pool(tmp_path, own_guard):
    """With the real server and the guard's own thread: it is asked again and again, and nothing is left of that."""
    policy = Policy(heartbeat=Heartbeat.redis(every=0.3, timeout=8))
    with start_redis(tmp_path) as redis, sockguard.guard_socket(redis.connect(), policy) as client:
        heart = heart_of(client)
        for n in range(1, 4):
            eventually(lambda n=n: heart.n_answered >= n, timeout=20)
            client.sendall(command("INCR", "counter"))
            assert client.recv(99) == b":%d\r\n" % n
        assert 0 < client.connection.rtt < 8
        client.settimeout(60)
        os.kill(redis.pid, signal.SIGSTOP)
        try:
            assert client.recv(99) == b""
            eventually(lambda: client.connection.state == "closed" or client.recv(99))
            with pytest.raises(ConnectionAbortedError, match="had not answered a heartbeat"):
                client.send(b"x")
        finally:
            os.kill(redis.pid, signal.SIGCONT)


# --- A connection that others may hold ---


def hand_out(server) -> socket.socket:
    """Gives the connection to somebody who duplicates it by its number, as a process does that inherits it."""
    return socket.socket(fileno=os.dup(server.fileno()))


@pytest.mark.parametrize("share", [lambda s: s.dup(), hand_out], ids=["dup", "fileno"])
def test_to_close_one_of_two_that_hold_a_connection_ends_nothing(d, share):
    """Neither is our side shut, nor is what lies there unread dropped: that is for the other one to read."""
    with pair() as p, share(p.server) as other:
        p.client.sendall(b"request")
        eventually(lambda: p.server.connection.facts.unread)
        p.server.close()
        d.tick()
        assert len(d.guard.lingering) == 0
        assert other.recv(99) == b"request"
        other.sendall(b"answer")
        assert p.client.recv(99) == b"answer"


def test_the_duplicate_of_a_connection_is_not_drained_either(d):
    """Whichever of both is closed first."""
    with pair() as p:
        copy = p.server.dup()
        p.client.sendall(b"request")
        eventually(lambda: p.server.connection.facts.unread)
        copy.close()
        assert (len(d.guard.lingering), p.server.recv(99)) == (0, b"request")


def test_a_guarded_selector_does_not_keep_a_connection_from_being_drained(d):
    """It asks for the number as every selector does, and hands it to nobody."""
    with pair() as p, sockguard.GuardedSelector() as selector:
        selector.register(p.server, selectors.EVENT_READ)
        selector.modify(p.server, selectors.EVENT_READ | selectors.EVENT_WRITE)
        assert selector.get_key(p.server) is selector.get_map()[p.server]
        p.client.sendall(b"request")
        eventually(lambda: p.server.connection.facts.unread)
        selector.unregister(p.server)
        p.server.close()
        assert len(d.guard.lingering) == 1


def test_a_plain_selector_never_finds_another_connection_at_a_number_that_it_knows():
    """The call that meets the end leaves the number to the program; the next connection gets another one."""
    with pair(half_close="close") as p, selectors.DefaultSelector() as selector:
        selector.register(p.server, selectors.EVENT_READ)
        hang_up(p)
        assert (p.server.recv(9), p.server.recv(9), ended(p.server)) == (b"", b"", False)
        with pytest.raises(ConnectionAbortedError, match=f"{PAST}its peer has closed its side"):
            p.server.send(b"x")
        with pair() as other:
            selector.register(other.server, selectors.EVENT_READ)
            selector.unregister(p.server)
            p.server.close()
            assert len(selector.get_map()) == 1
        assert p.server.connection.state == "closed"


def test_a_number_that_was_handed_out_survives_a_reset():
    """The error is raised as it is; what comes later is told why."""
    with pair() as p:
        fd = p.server.fileno()
        reset_by_peer(p)
        with pytest.raises(ConnectionResetError):
            p.server.recv(9)
        assert os.fstat(fd)
        for call in (lambda: p.server.recv(9), lambda: p.server.send(b"x")):
            with pytest.raises(ConnectionAbortedError, match=f"{PAST}it is over since"):
                call()


# --- Without a guard ---


def test_an_error_of_the_environment_destroys_nothing(monkeypatch):
    """The plain socket keeps its descriptor, and so does whoever gives a number."""
    monkeypatch.setenv("SOCKGUARD_FIN_TIMEOUT", "soon")
    set_maker(_process._share)  # noqa: SLF001
    with connect() as c:
        with pytest.raises(sockguard.PolicyError):
            sockguard.guard_socket(c.server)
        with pytest.raises(sockguard.PolicyError):
            sockguard.GuardedSocket(fileno=c.server.fileno())
        c.server.sendall(b"still here")
        assert c.client.recv(99) == b"still here"


def test_close_needs_no_guard():
    """After the guard has gone it is that of the original; to make another one could fail."""

    def no_guard(_thread):
        raise RuntimeError

    with pair() as p:
        p.client.sendall(b"x")
        eventually(lambda: p.server.connection.facts.unread)
        set_maker(no_guard)
        set_current_guard(None)
        p.server.close()
        assert ended(p.server)


# --- Duplicates, and other terms ---


def test_a_duplicate_has_the_heart_of_the_original(beating):
    """There is one stream: what is received by either takes the answers out, and neither is lost."""
    client, server, d = beating
    with client.dup() as copy:
        copy.settimeout(20)
        ask(client, server, d)
        server.sendall(b"pong\nreply\n")
        assert copy.recv(99) == b"reply\n"
        for _ in range(4):
            d.tick(1)
        assert d.closed() == []
        client.close()
        ask(copy, server, d)


def test_a_deadline_is_met_by_whichever_is_left(d):
    """Also if the duplicate has gone, of which the guard heard last."""
    with pair() as p:
        copy = p.server.dup()
        d.tick()
        copy.close()
        d.tick()
        with p.server.connection.deadline(5):
            for _ in range(4):
                d.tick(3)
        assert d.closed() == [("deadline", "shut_down")]


def test_what_a_duplicate_of_a_unix_socket_moves_counts_for_both(d, unix):
    """So none of them seems idle while the other one works."""
    guarded, other = unix
    with guarded.dup() as copy:
        copy.sendall(b"hello")
        other.sendall(b"hi")
        assert copy.recv(9) == b"hi"
        assert (guarded.bytes_sent, guarded.bytes_received) == (5, 2)


def test_a_duplicate_of_a_class_of_the_program_needs_none_of_its_arguments():
    """It is of that class, and nothing of it is left open."""

    class Mine(sockguard.GuardedSocket):
        def __init__(self, host):
            super().__init__()

    with Mine("a") as mine, mine.dup() as copy:
        assert (type(copy), copy.family, copy.gettimeout()) == (Mine, mine.family, None)


def test_a_duplicate_of_a_class_of_the_program_is_made_by_its_constructor(d):
    """As the original makes it, where that takes what the original's does; terms and counts are shared as ever."""

    class Labelled(sockguard.GuardedSocket):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.label = "x"

    policy = Policy(idle_timeout=5)
    one, other = socket.socketpair(socket.AF_UNIX)
    with other, pair() as p:
        for plain in (socket.socket().detach(), p.server.detach(), one.detach()):
            with Labelled(fileno=plain, policy=policy) as mine, mine.dup() as copy:
                assert (type(copy), copy.label, copy.family) == (Labelled, "x", mine.family)
                assert copy.connection.policy is policy
                if mine.connection.state == "open":
                    copy.sendall(b"hello")
                    assert (mine.connection._terms is copy.connection._terms, mine.bytes_sent) == (True, 5)  # noqa: SLF001
                    for _ in range(4):
                        d.tick(5)
        assert d.closed() == [("idle", "shut_down")] * 2


def test_what_a_constructor_of_the_program_raises_is_its_own():
    """Though it is what is raised for wrong arguments; it may have taken the descriptor, so nothing else is tried."""

    class Picky(sockguard.GuardedSocket):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            if "fileno" in kwargs:
                self.close()
                raise TypeError("of its own")

    with Picky() as mine, pytest.raises(TypeError, match="of its own"):
        mine.dup()


def test_other_terms_keep_what_is_held_of_the_stream(beating):
    """Bytes that came behind an answer, and what is counted and said of the connection."""
    client, server, d = beating
    ask(client, server, d)
    client.connection.expect_open("a feed")
    before = client.connection
    threading.Timer(0.1, server.sendall, [b"first\npo"]).start()
    assert client.recv(6) == b"first\n"
    server.sendall(b"tatoes\n")
    sockguard.guard_socket(client, Policy(idle_timeout=5))
    got = b""
    while len(got) < 9:
        got += client.recv(99)
    assert got == b"potatoes\n"
    assert before.policy.idle_timeout == 5
    assert client.connection._terms is before._terms  # noqa: SLF001


def test_an_earlier_time_of_other_terms_is_kept(d):
    """The guard looks again when it is due, and not when the former policy would have had it."""
    with pair(idle_timeout=50000) as p:
        d.tick()
        d.tick()
        sockguard.guard_socket(p.server, Policy(idle_timeout=5))
        for _ in range(4):
            d.tick(5)
        assert d.closed() == [("idle", "shut_down")]


def test_other_terms_can_bring_a_heart(d):
    """If there was none before."""
    with listen() as listener, sockguard.GuardedSocket() as client:
        client.connect(listener.getsockname())
        with listener.accept()[0] as server:
            sockguard.guard_socket(client, Policy(heartbeat=BEAT))
            ask(client, server, d)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_forked_child_that_says_it_serves_asks(beating):
    """By other terms, or the same; it need not have received or sent anything before."""
    client, server, d = beating

    def serve() -> bool:
        d.guard.after_fork_in_child()
        sockguard.guard_socket(client, Policy(heartbeat=BEAT))
        ask(client, server, d)
        return True

    assert succeeded(fork(serve))


def test_other_terms_can_end_a_heart(beating):
    """Nothing is sent any more."""
    client, server, d = beating
    sockguard.guard_socket(client, Policy())
    for _ in range(20):
        d.tick(1)
    assert select.select([server], [], [], 0.1)[0] == []


OTHER_CALLS = {
    "settimeout": lambda s: s.settimeout(20),
    "setblocking": lambda s: s.setblocking(True),
    "getsockopt": lambda s: s.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE),
    "setsockopt": lambda s: s.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    "get_inheritable": lambda s: s.get_inheritable(),
    "dup": lambda s: s.dup(),
}


@pytest.mark.parametrize("call", OTHER_CALLS.values(), ids=OTHER_CALLS)
def test_all_calls_after_the_end_say_why(call):
    """And not that a descriptor is bad, as they do after a close() of the program's own."""
    with pair(half_close="close") as p:
        hang_up(p)
        assert (p.server.recv(9), ended(p.server)) == (b"", True)
        with pytest.raises(ConnectionAbortedError, match=f"{PAST}its peer has closed its side"):
            call(p.server)
    with sockguard.GuardedSocket() as closed:
        closed.close()
        with pytest.raises(OSError, match="Bad file descriptor") as caught:
            call(closed)
        assert caught.value.errno == errno.EBADF


@pytest.mark.parametrize("is_known", [False, True], ids=["closed", "handed out"])
def test_a_file_cannot_be_sent_after_the_end_either(tmp_path, is_known):
    """It says why, as send() does."""
    path = tmp_path / "file"
    path.write_bytes(b"x" * 99)
    with pair(half_close="close") as p, path.open("rb") as file:
        if is_known:
            p.server.fileno()
        hang_up(p)
        assert p.server.recv(9) == b""
        for call in (lambda: p.server.send(b"x"), lambda: p.server.sendfile(file)):
            with pytest.raises(ConnectionAbortedError, match=f"{PAST}its peer has closed its side"):
                call()


def test_a_file_that_fails_half_way_closes_on_that_call(tmp_path):
    """As any call that finds the connection over; the one after it says why."""
    errors = []

    def send(server, file):
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            server.sendfile(file)
            errors.append("none")

    with pair() as p, (tmp_path / "file").open("wb+") as file:
        file.truncate(50_000_000)
        thread = threading.Thread(target=send, args=(p.server, file), daemon=True)
        thread.start()
        assert p.client.recv(1) == b"\0"
        reset(p.client)
        thread.join(20)
        assert (errors, ended(p.server)) == ([], True)
        with pytest.raises(ConnectionAbortedError, match=f"{PAST}it is over since a call failed with "):
            p.server.send(b"x")


@pytest.mark.needs_books
def test_a_listener_that_does_not_wait_passes_over_the_dead():
    """As any listener does under `install()`: what its peer has left already is closed, and told of."""
    with shared(shed_dead_on_accept="always") as d, sockguard.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        gone = socket.create_connection(listener.getsockname())
        name = "{}:{}".format(*gone.getsockname())
        reset(gone)
        with socket.create_connection(listener.getsockname()) as there:
            accepted = eventually(lambda: accept_or_none(listener))
            with accepted[0]:
                assert accepted[1] == there.getsockname() and type(accepted[0]) is sockguard.GuardedSocket
        [event] = d.told("connection_closed")
        fields = event.fields
        assert (fields["reason"], fields["setting"], fields["step"], fields["side"], fields["remote"]) == (
            "pressure", "shed_dead_on_accept", "closed", "server", name,
        )  # fmt: skip
        with pytest.raises(BlockingIOError):
            listener.accept()


def accept_or_none(listener):
    """Accepts a connection if there is one."""
    with contextlib.suppress(BlockingIOError):
        return listener.accept()
    return None


def test_a_unix_client_is_none_that_was_accepted(tmp_path):
    """It has no name, and what was accepted has that of its listener: its first byte is not waited for."""
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as plain:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        plain.connect(str(tmp_path / "s"))
        with sockguard.guard_socket(plain) as client, sockguard.guard_socket(listener.accept()[0]) as server:
            assert (client._is_server, server._is_server) == (False, True)  # noqa: SLF001


@kernel_only
def test_what_is_still_connecting_is_a_client():
    """Its listener takes no more, so it waits for an answer to its SYN."""
    with socket.socket() as listener, contextlib.ExitStack() as stack:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)

        def try_one():
            sock = stack.enter_context(socket.socket())
            sock.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                sock.connect(listener.getsockname())
            time.sleep(0.01)
            return sock if state_of(sock) == 2 else None

        guarded = stack.enter_context(sockguard.guard_socket(eventually(try_one)))
        assert guarded._is_server is False  # noqa: SLF001
