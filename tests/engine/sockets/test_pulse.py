"""The heart of a guarded socket keeps out of its program's way: when it connects, sends, forks and takes a signal."""

import contextlib
import os
import select
import signal
import socket
import sys
import threading
import time

import pytest

import sockguard
from forks import succeeds_in_child
from loopback import listen, state_of
from sockguard._core.policy import Heartbeat, Policy
from waiting import eventually
from wrapped import shared

BEAT = Policy(heartbeat=Heartbeat(b"ping\n", 5, 5, b"pong\n"))

SYN_SENT = 2


@pytest.fixture
def d():
    """A guard that does nothing but at `d.tick()`."""
    with shared() as d:
        yield d


@pytest.fixture
def beating(d):
    """A guarded client with a heartbeat, its server's end, and the guard."""
    with listen() as listener, sockguard.GuardedSocket(policy=BEAT) as client:
        client.connect(listener.getsockname())
        with listener.accept()[0] as server:
            server.settimeout(20)
            yield client, server, d


@contextlib.contextmanager
def held_by_another_thread(client):
    """Has another thread be in the midst of a message."""
    is_in, is_over = threading.Event(), threading.Event()

    def hold() -> None:
        with client.connection.sending():
            is_in.set()
            is_over.wait(20)

    thread = threading.Thread(target=hold)
    thread.start()
    assert is_in.wait(20)
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def heart_of(sock):
    return sock.connection._terms.heart  # noqa: SLF001


# --- Connecting ---


def fill(listener) -> list[socket.socket]:
    """Fills the queue of a listener, so that the next one has to wait for it."""
    clients = [socket.socket() for _ in range(3)]
    for client in clients:
        client.setblocking(False)
        client.connect_ex(listener.getsockname())
    return clients


def test_a_connection_that_takes_long_to_come_about_is_asked_from_then_on(d):
    """Nothing is sent before it is there, and the heart has not given up on it."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(listen(backlog=0))
        for sock in fill(listener):
            stack.enter_context(sock)
        client = stack.enter_context(sockguard.GuardedSocket(policy=BEAT))
        client.setblocking(False)
        client.connect_ex(listener.getsockname())
        for _ in range(40):
            d.tick(1)
        assert (state_of(client), heart_of(client).n_sent) == (SYN_SENT, 0)
        listener.settimeout(20)
        while not select.select([], [client], [], 0)[1]:
            stack.enter_context(listener.accept()[0])
        for _ in range(5):
            d.tick(0.5)
        assert heart_of(client).n_sent == 0
        for _ in range(10):
            d.tick(0.5)
        assert heart_of(client).n_sent == 1


@pytest.mark.usefixtures("d")
def test_the_time_before_connect_does_not_count():
    """Terms can be made long before there is a connection."""
    policy = Policy(heartbeat=Heartbeat(b"ping\n", 1, 5, b"pong\n"))
    with listen() as listener, sockguard.GuardedSocket(policy=policy) as client:
        client.connection.expect_open("early")
        made_at = time.monotonic()
        time.sleep(0.2)
        client.connect(listener.getsockname())
        assert heart_of(client).next_at >= made_at + 1.2


def test_a_question_that_finds_no_room_comes_again(d):
    """Something else may fill the queue at the last moment, here the function that makes it: no end of the heart."""
    is_to_fill = [True]

    def make() -> bytes:
        if is_to_fill.pop() if is_to_fill else False:
            with socket.socket(fileno=os.dup(client.fileno())) as same, contextlib.suppress(BlockingIOError):
                while True:
                    same.send(bytes(65536), socket.MSG_DONTWAIT)
        return b"ping\n"

    with (
        listen() as listener,
        sockguard.GuardedSocket(policy=Policy(heartbeat=Heartbeat(make, 5, 5, b"pong\n"))) as client,
    ):
        client.connect(listener.getsockname())
        with listener.accept()[0] as server:
            for _ in range(3):
                d.tick(2)
            assert (is_to_fill, heart_of(client).n_sent) == ([], 0)
            server.setblocking(False)
            eventually(lambda: (error_of(lambda: server.recv(1 << 20)), client.connection.facts.unsent == 0)[1])
            d.tick(1)
            assert heart_of(client).n_sent == 1


# --- Sending ---


def test_who_does_not_wait_does_not_wait_for_another_thread(beating):
    """send() and sendall() of a socket that does not block, and with MSG_DONTWAIT; then it goes on as ever."""
    client, server, _ = beating
    with held_by_another_thread(client):
        with pytest.raises(BlockingIOError):
            client.send(b"x", socket.MSG_DONTWAIT)
        with pytest.raises(BlockingIOError):
            client.sendmsg([b"x"], [], socket.MSG_DONTWAIT)
        client.setblocking(False)
        for send in (client.send, client.sendall):
            with pytest.raises(BlockingIOError) as caught:
                send(b"x")
            assert caught.value.errno == 11
    assert client.send(b"y") == 1
    assert server.recv(9) == b"y"


def test_a_time_out_holds_for_the_wait_for_another_thread(beating):
    """As it does for room in the queue."""
    client, server, _ = beating
    client.settimeout(0.05)
    with held_by_another_thread(client):
        for send in (client.send, client.sendall):
            with pytest.raises(TimeoutError, match="timed out"):
                send(b"x")
    client.settimeout(10)
    client.sendall(b"y")
    assert server.recv(9) == b"y"


def test_a_signal_handler_may_send(beating):
    """While its own thread receives, or sends, or anything else."""
    client, server, _ = beating
    meter = client._meter  # noqa: SLF001
    n_handled = []

    def handle(*_):
        client.sendall(b"!")
        n_handled.append(1)

    before = signal.signal(signal.SIGALRM, handle)
    try:
        with meter._lock, client.connection.sending():  # noqa: SLF001 - the moment that is hard to hit
            assert not is_stuck(meter), "it would wait for ever"
            signal.raise_signal(signal.SIGALRM)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert (n_handled, server.recv(9)) == ([1], b"!")


def is_stuck(meter) -> bool:
    """Tells whether this thread could not enter once more where it is inside."""
    if meter._lock.acquire(blocking=False):  # noqa: SLF001
        meter._lock.release()  # noqa: SLF001
        return False
    return True


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_child_sends_though_a_thread_of_its_parent_was_sending(beating):
    """That thread is not in the child, so the gate that it holds would never open."""
    client, server, _ = beating

    def send() -> bool:
        with client.connection.sending():
            client.sendall(b"x")
        return True

    with held_by_another_thread(client):
        assert succeeds_in_child(send)
        assert server.recv(9) == b"x"


# --- Receiving ---


@pytest.mark.parametrize("flag", ["MSG_OOB", "MSG_ERRQUEUE"])
def test_what_is_not_of_the_stream_does_not_wait(beating, flag):
    """The original fails at once where there is none, whatever the time-out; and gives what there is."""
    client, server, _ = beating
    errors = []
    thread = threading.Thread(
        target=lambda: errors.append(error_of(lambda: client.recvmsg(9, 99, getattr(socket, flag))))
    )
    thread.start()
    thread.join(20)
    is_waiting = thread.is_alive()
    server.sendall(b"wake it up")
    thread.join(20)
    assert not is_waiting
    assert isinstance(errors[0], OSError)


def error_of(call) -> Exception | None:
    """Gives what a call raises."""
    try:
        call()
    except OSError as error:
        return error
    return None


def test_urgent_data_arrives(beating):
    """Past what is in the stream."""
    client, server, _ = beating
    server.send(b"!", socket.MSG_OOB)
    assert eventually(lambda: not error_of(lambda: client.recv(1, socket.MSG_OOB | socket.MSG_PEEK)))
    assert client.recv(1, socket.MSG_OOB) == b"!"


def ask(client, server, d) -> None:
    """Lets time pass until the question arrives."""
    eventually(lambda: (d.tick(1), select.select([server], [], [], 0.01)[0])[1])
    assert server.recv(99) == b"ping\n"


def waits_for(client, n: int) -> bool:
    """Waits until so many bytes lie there for a client."""
    return eventually(lambda: client.connection.facts.unread == n)


LOOKS = {
    "recv": lambda sock, n: sock.recv(n, socket.MSG_PEEK),
    "recvmsg": lambda sock, n: sock.recvmsg(n, 0, socket.MSG_PEEK)[0],
    "recv_into": lambda sock, n: (buffer := bytearray(n))[: sock.recv_into(buffer, n, socket.MSG_PEEK)],
}


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
def test_a_look_shows_what_a_call_would_give(beating, look):
    """Neither the answer nor less for that; and it takes nothing that is the application's, so that select() knows."""
    client, server, d = beating
    ask(client, server, d)
    server.sendall(b"before\npong\nafter\npo")
    waits_for(client, 20)
    for _ in range(2):
        assert (look(client, 4), look(client, 13)) == (b"befo", b"before\nafter\n")
        assert look(client, 99) == b"before\nafter\npo"
        assert client.connection.facts.unread == 20
    assert (client.recv(3), look(client, 99)) == (b"bef", b"ore\nafter\npo")
    assert client.recv(99) == b"ore\nafter\npo"


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
def test_a_look_at_what_may_be_an_answer_waits_for_more(beating, look):
    """As a call does, and as that it shows then what was held back, also at the end of the stream."""
    client, server, d = beating
    client.settimeout(0)
    ask(client, server, d)
    server.sendall(b"po")
    waits_for(client, 2)
    for _ in range(2):
        with pytest.raises(BlockingIOError):
            look(client, 9)
    server.sendall(b"tatoes\npon")
    waits_for(client, 10)
    assert (look(client, 99), client.recv(99)) == (b"potatoes\n", b"potatoes\n")
    server.shutdown(socket.SHUT_WR)
    eventually(lambda: client.connection.state == "half_closed")
    assert (look(client, 2), look(client, 9), client.recv(9), client.recv(9)) == (b"po", b"pon", b"pon", b"")


def test_a_look_takes_an_answer_out_that_stands_alone(beating):
    """And finds nothing else; who looks with a time-out waits for bytes of the application's."""
    client, server, d = beating
    ask(client, server, d)
    client.settimeout(20)
    got = []
    thread = threading.Thread(target=lambda: got.append(client.recv(9, socket.MSG_PEEK)))
    thread.start()
    server.sendall(b"pong\n")
    assert eventually(lambda: heart_of(client).n_answered) == 1
    server.sendall(b"data\n")
    thread.join(20)
    assert (got, client.recv(9)) == ([b"data\n"], b"data\n")


@pytest.fixture
def beating_unix(d):
    """A guarded end of a Unix pair with a heartbeat, the other end, and the guard."""
    one, other = socket.socketpair(socket.AF_UNIX)
    with sockguard.guard_socket(one, BEAT) as guarded, other:
        other.settimeout(20)
        guarded.settimeout(20)
        yield guarded, other, d


def receive_fds(sock, flags: int = 0) -> tuple[bytes, int]:
    """Receives bytes, and closes the descriptors that came with them; tells how many there were."""
    data, beside, _, _ = sock.recvmsg(99, socket.CMSG_SPACE(4), flags)
    fds = [int.from_bytes(fd, sys.byteorder) for _, _, fd in beside]
    for fd in fds:
        os.close(fd)
    return data, len(fds)


def test_descriptors_arrive_though_their_bytes_may_be_an_answer(beating_unix):
    """Bytes that bring descriptors are the application's, and come with them; what is held back comes before them."""
    guarded, other, d = beating_unix
    with socket.socket() as any_other:
        for sent in (b"p", b"pong\n"):
            ask(guarded, other, d)
            socket.send_fds(other, [sent], [any_other.fileno()])
            assert receive_fds(guarded, socket.MSG_PEEK) == (sent, 1)
            assert receive_fds(guarded) == (sent, 1)
            other.sendall(b"!\npong\n")
            assert guarded.recv(99) == b"!\n"
            assert heart_of(guarded).state.value == "waiting"
        ask(guarded, other, d)
        guarded.settimeout(0)
        other.sendall(b"po")
        with pytest.raises(BlockingIOError):
            guarded.recv(9)
        socket.send_fds(other, [b"tatoes\n"], [any_other.fileno()])
        assert receive_fds(guarded) == (b"potatoes\n", 1)
