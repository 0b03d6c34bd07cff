"""Everything that looks like a leak and is none.

First the report: exit status 0 and an empty list, each time. Then the guard: healthy programs
behave under it as without it, with timeouts so short that a timer would kill most of them.
Beside most stands the leak that they resemble, so that silence proves something.
"""

# ruff: noqa: T201 - here the programs are functions, and what they print is compared

import asyncio
import collections
import contextlib
import errno
import gc
import http.client
import http.server
import multiprocessing.connection
import os
import queue
import random
import select
import signal
import socket
import ssl
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

import pytest

from children import start_child
from commands import PROGRAMS, only_leak, report, run
from differential.programs import running
from netstat import CLOSE_WAIT, ESTABLISHED, FIN_WAIT2, wait_for
from players import Players
from servers import teach
from waiting import eventually

pytestmark = [pytest.mark.slow, pytest.mark.one_python]

STREAM = """
import threading
def stream(connection):
    try:
        while True:
            connection.sendall(b"event")
            time.sleep(0.05)
    except OSError:
        pass
threading.Thread(target=stream, args=(server,), daemon=True).start()
"""
SIP = """
import threading
sipping = True
def sip(connection):
    while sipping and connection.recv(20):
        time.sleep(0.05)
threading.Thread(target=sip, args=(server,), daemon=True).start()
"""


@pytest.fixture
def child():
    with start_child() as child:
        child.do("import time; listener = socket.create_server(('127.0.0.1', 0))")
        yield child


@pytest.fixture
def port(child):
    return int(child.ask("listener.getsockname()[1]"))


@pytest.fixture
def client(child, port):
    with socket.create_connection(("127.0.0.1", port)) as client:
        child.do("server, _ = listener.accept()")
        yield client


def test_half_closed_peer_with_a_long_answer(child, port, client):
    """A peer that half-closed and is still being answered makes progress, however long ago its FIN came."""
    client.shutdown(socket.SHUT_WR)
    wait_for(port, state=CLOSE_WAIT)
    half_closed_at = time.monotonic()
    teach(child, STREAM)
    received = []
    while time.monotonic() - half_closed_at < 3.5:
        received.append(client.recv(100))
        if len(received) % 20 == 0:
            assert eventually(lambda: report(child.pid, min_age=3)["leaks"] == [])
    assert all(received)
    assert eventually(lambda: report(child.pid, min_age=3)["leaks"] == [])
    assert wait_for(port, state=CLOSE_WAIT)


def test_half_closed_peer_with_a_long_answer_in_two_looks(child, port, client):
    """Two looks see the same stream move and leave it out, whatever the age says."""
    client.shutdown(socket.SHUT_WR)
    wait_for(port, state=CLOSE_WAIT)
    assert only_leak(child.pid)["cause"] == "eof_unread"
    teach(child, STREAM)
    reader = threading.Thread(target=lambda: [None for _ in iter(lambda: _receive(client), b"")], daemon=True)
    reader.start()
    assert eventually(lambda: report(child.pid, options=["--wait", "2"])["leaks"] == [])
    client.shutdown(socket.SHUT_RD)
    reader.join(timeout=10)
    assert not reader.is_alive()


def _receive(sock: socket.socket) -> bytes:
    with contextlib.suppress(OSError):
        return sock.recv(100)
    return b""


def test_half_closed_peer_with_a_late_answer(child, port, client):
    """A handler that thinks before it answers a half-closed peer is no leak while it is younger than --min-age."""
    client.sendall(b"question")
    client.shutdown(socket.SHUT_WR)
    wait_for(port, state=CLOSE_WAIT)
    child.do("server.recv(100)")
    assert report(child.pid, min_age=3600)["leaks"] == []
    assert report(child.pid, min_age=0)["leaks"] != []
    child.do("server.sendall(b'late answer'); server.close()")
    assert client.recv(100) == b"late answer"
    assert report(child.pid, min_age=0)["leaks"] == []


def test_slow_consumer_of_a_full_queue(child, port, client):
    """Who works off what a vanished peer left behind is alive: two looks leave it out, until it stops."""
    client.sendall(bytes(60_000))
    client.close()
    wait_for(port, state=CLOSE_WAIT, recv_queue=60_001)
    assert only_leak(child.pid, options=["--wait", "1"])["cause"] == "unread"
    teach(child, SIP)
    assert eventually(lambda: report(child.pid, options=["--wait", "3"])["leaks"] == [])
    child.do("sipping = False")
    assert eventually(lambda: report(child.pid, options=["--wait", "1"])["leaks"])[0]["cause"] == "unread"


def test_idle_connection(child, client):
    """An established connection without traffic is none of our affair, at any age."""
    assert report(child.pid)["leaks"] == []
    assert report(child.pid)["processes"][0]["states"] == {"LISTEN": 1, "ESTABLISHED": 1}


def test_unread_data_of_a_peer_that_is_there(child, port, client):
    """Unread bytes are no leak while the peer has not hung up."""
    client.sendall(b"unread")
    wait_for(port, state=ESTABLISHED, recv_queue=6)
    assert report(child.pid)["leaks"] == []


def test_listener_alone(child):
    """A listener without connections is no leak."""
    assert report(child.pid)["leaks"] == []


def test_live_connection_in_the_queue(child, port):
    """A connection that waits to be accepted and whose peer is there is no leak yet; its process is told to have it."""
    with socket.create_connection(("127.0.0.1", port)):
        found = report(child.pid)
    (listener,) = found["processes"][0]["listeners"]
    assert (found["leaks"], listener["queued"], listener["queued_close_wait"]) == ([], 1, 0)


def test_peer_that_does_not_close(child, port, client):
    """We have closed first and wait for the peer: FIN_WAIT2, kept by us, is the peer's leak and not ours."""
    child.do("server.shutdown(socket.SHUT_WR)")
    wait_for(port, state=FIN_WAIT2)
    assert report(child.pid)["leaks"] == []
    (leak,) = [leak for leak in report(os.getpid())["leaks"] if leak["fd"] == client.fileno()]
    assert leak["cause"] == "stale_client"


def test_connection_that_is_closed_properly(child, port, client):
    """Once the owner has closed, nothing is left to report."""
    client.close()
    wait_for(port, state=CLOSE_WAIT)
    assert len(report(child.pid)["leaks"]) == 1
    child.do("server.close()")
    assert report(child.pid)["leaks"] == []


class Quiet(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *args):
        pass


def test_pooled_connection_that_is_reused():
    """A kept-alive connection between two requests, and after them, is healthy on both sides."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            with start_child() as child:
                child.do("import http.client")
                child.do(f"pooled = http.client.HTTPConnection('127.0.0.1', {server.server_address[1]})")
                for _ in range(3):
                    assert child.ask("pooled.request('GET', '/') or pooled.getresponse().read()") == "b'ok'"
                    assert report(child.pid)["leaks"] == []
                assert report(child.pid)["processes"][0]["states"] == {"ESTABLISHED": 1}
                mine = [leak["local"] for leak in report(os.getpid())["leaks"]]
                assert f"127.0.0.1:{server.server_address[1]}" not in mine  # others play at the same time
        finally:
            server.shutdown()
            thread.join()


def test_sockets_that_are_not_tcp(child):
    """UDP, Unix and netlink sockets, pipes and epoll sets are passed over, connected, hung up or neither."""
    teach(
        child,
        """
        import os, select
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.connect(("127.0.0.1", listener.getsockname()[1]))
        udp6 = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        left, right = socket.socketpair()
        right.close()
        unix = socket.socket(socket.AF_UNIX)
        datagrams = socket.socketpair(type=socket.SOCK_DGRAM)
        netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 4)
        pipe = os.pipe()
        poll = select.epoll()
        """,
    )
    found = report(child.pid)
    assert found["leaks"] == []
    assert found["processes"][0]["states"] == {"LISTEN": 1}


def test_process_without_any_socket():
    """A process that has nothing to do with the network has no leaks, in words too."""
    with start_child() as child:
        outcome = run("report", "--pid", child.pid, "--min-age", 0)
    assert (outcome.status, outcome.err) == (0, "")
    assert outcome.out.startswith("No leaks in 1 process")


def test_other_processes_leaks_are_not_ours(child, port, client):
    """Asked for one process, the report is silent about the leaks of another."""
    client.close()
    wait_for(port, state=CLOSE_WAIT)
    with start_child() as healthy:
        assert report(healthy.pid)["leaks"] == []
    assert port_of_leak(only_leak(child.pid)) == port


def port_of_leak(leak: dict) -> int:
    return int(leak["local"].rpartition(":")[2])


def test_client_connection_in_use(child, port):
    """A client whose server is there is healthy on its side as on the server's."""
    with start_child() as other:
        other.do(f"client = socket.create_connection(('127.0.0.1', {port}))")
        child.do("server, _ = listener.accept(); server.sendall(b'x')")
        assert report(child.pid, other.pid)["leaks"] == []
        assert other.ask("client.recv(1)") == "b'x'"


# The guard


def listen():
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    return listener


def accept_one():
    connection, _ = listen().accept()
    return connection


def wait_for_fin(sock):
    """Waits until the peer has half-closed: TCP state 8, CLOSE_WAIT."""
    while sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] != 8:
        time.sleep(0.01)


def stream(send, seconds=4.0, every=0.1):
    """Sends an event each moment, for so long."""
    for n in range(int(seconds / every)):
        send(b"event %d\n" % n)
        time.sleep(every)


def events(seconds=4.0, every=0.1):
    """What `stream` sends."""
    return b"".join(b"event %d\n" % n for n in range(int(seconds / every)))


async def serve_one(serve):
    """Serves one connection in asyncio, and ends."""

    async def handler(reader, writer):
        try:
            await serve(reader, writer)
        finally:
            writer.close()
            await writer.wait_closed()
            over.set()

    over = asyncio.Event()
    server = await asyncio.start_server(handler, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await over.wait()


def works_it_off():
    """Everything arrived, the FIN too, and is read bit by bit for 8 s; then comes the answer."""
    connection = accept_one()
    wait_for_fin(connection)
    total = 0
    while data := connection.recv(4000):
        total += len(data)
        time.sleep(0.5)
    connection.sendall(b"%d" % total)
    connection.close()


def works_it_off_in_asyncio():
    """The same by a protocol with a small buffer, which pauses its transport after each bit."""

    class Sipping(asyncio.BufferedProtocol):
        def connection_made(self, transport):
            transport.pause_reading()
            self.transport, self.buffer, self.total = transport, bytearray(4000), 0
            loop.call_later(0.5, transport.resume_reading)

        def get_buffer(self, sizehint):
            return self.buffer

        def buffer_updated(self, nbytes):
            self.total += nbytes
            self.transport.pause_reading()
            loop.call_later(0.5, self.transport.resume_reading)

        def eof_received(self):
            self.transport.write(b"%d" % self.total)

        def connection_lost(self, exc):
            loop.stop()

    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(loop.create_server(Sipping, "127.0.0.1", 0))
    print(server.sockets[0].getsockname()[1], flush=True)
    loop.run_forever()


def streams_events():
    """An event stream to a half-closed peer, from a thread of its own."""
    connection = accept_one()
    wait_for_fin(connection)
    thread = threading.Thread(target=stream, args=(connection.sendall, 8.0))
    thread.start()
    thread.join()
    connection.close()


def streams_events_in_asyncio():
    """An event stream to a half-closed peer, from an event loop."""

    async def serve(reader, writer):
        assert await reader.read() == b""
        for n in range(80):
            writer.write(b"event %d\n" % n)
            await writer.drain()
            await asyncio.sleep(0.1)

    asyncio.run(serve_one(serve))


def speaks_first_and_late():
    """The peer half-closed at once, and the first word is ours, 3 s later; it is never read before."""
    connection = accept_one()
    wait_for_fin(connection)
    time.sleep(3)
    connection.sendall(b"220 welcome")
    assert connection.recv(100) == b""
    connection.close()


def speaks_first_and_late_in_asyncio():
    """The same from an event loop, which has seen the EOF long before."""

    async def serve(reader, writer):
        assert await reader.read() == b""
        await asyncio.sleep(3)
        writer.write(b"220 welcome")

    asyncio.run(serve_one(serve))


def has_a_slow_reader():
    """A half-closed peer takes 8 s for its answer, and the kernel's buffers hold but a part of it."""
    connection = accept_one()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
    connection.sendall(bytes(1_600_000))
    connection.close()


def sends_a_file():
    """The same by sendfile(2), which Python code does not see."""
    connection = accept_one()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
    with tempfile.TemporaryFile() as file:
        file.write(bytes(1_600_000))
        file.seek(0)
        connection.sendfile(file)
    connection.close()


def is_silent():
    """Two that have nothing to say for 4 s, as with a WebSocket, and then go on."""
    connection = accept_one()
    for _ in range(2):
        connection.sendall(connection.recv(100).upper())
    assert connection.recv(100) == b""
    connection.close()


def reuses_a_stale_connection():
    """A client's pooled connection, whose server hung up 2 s ago, fails in the way that pools know."""

    def serve(listener):
        for _ in range(2):
            connection, _ = listener.accept()
            connection.recv(1000)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            connection.close()

    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=serve, args=(listener,)).start()
    pooled = http.client.HTTPConnection("127.0.0.1", listener.getsockname()[1])
    pooled.request("GET", "/")
    print(pooled.getresponse().read())
    wait_for_fin(pooled.sock)
    time.sleep(2)
    try:
        pooled.request("GET", "/")
        pooled.getresponse()
    except http.client.RemoteDisconnected:
        print("stale")
    pooled.close()
    pooled.request("GET", "/")
    print(pooled.getresponse().read())


def duplicates():
    """A thread streams to a half-closed peer by a duplicate; the socket that was accepted is closed."""
    accepted = accept_one()
    wait_for_fin(accepted)
    connection = accepted.dup()
    accepted.close()
    thread = threading.Thread(target=stream, args=(connection.sendall,))
    thread.start()
    thread.join()
    connection.close()


def detaches():
    """A stream by a socket object that was made of the number which another one let go."""
    accepted = accept_one()
    wait_for_fin(accepted)
    number = accepted.detach()
    del accepted
    gc.collect()
    connection = socket.socket(fileno=number)
    stream(connection.sendall)
    connection.close()


def makes_a_file():
    """A stream by the file of a socket that is closed, as far as Python knows."""
    accepted = accept_one()
    wait_for_fin(accepted)
    file = accepted.makefile("wb", buffering=0)
    accepted.close()
    del accepted
    gc.collect()
    stream(file.write)
    file.close()


def hands_over():
    """One thread accepts, and another takes the connection off a queue 3 s later, long after the FIN."""
    parked = queue.Queue()

    def work():
        connection = parked.get()
        connection.sendall(connection.recv(100).upper())
        assert connection.recv(100) == b""
        connection.close()

    worker = threading.Thread(target=work)
    connection = accept_one()
    wait_for_fin(connection)
    parked.put(connection)
    del connection
    time.sleep(3)
    worker.start()
    worker.join()


def forks():
    """A child streams to a half-closed peer; the parent has closed its copy and accepts on."""
    listener = listen()
    for seconds in (4.0, 0.1):
        connection, _ = listener.accept()
        wait_for_fin(connection)
        if not os.fork():
            listener.close()
            stream(connection.sendall, seconds)
            os._exit(0)
        connection.close()
    for _ in range(2):
        os.wait()


def parent_streams_on():
    """A child that inherited a connection ends; the parent goes on using it."""
    connection = accept_one()
    wait_for_fin(connection)
    stream(connection.sendall, 1.0)
    if not os.fork():
        time.sleep(2)
        connection.close()
        sys.exit()
    stream(connection.sendall)
    os.wait()
    connection.close()


def stops_reading():
    """Our own SHUT_RD looks like a peer's FIN to epoll; the peer is there, and we send on."""
    connection = accept_one()
    connection.shutdown(socket.SHUT_RD)
    time.sleep(3)
    stream(connection.sendall, 1.0)
    connection.close()


def half_closes_itself():
    """It was us who half-closed, and the peer's answer comes 3 s later."""
    connection = accept_one()
    connection.sendall(b"question")
    connection.shutdown(socket.SHUT_WR)
    print(connection.recv(100))
    connection.close()


def gets_errors_that_are_none():
    """Nothing there yet, a time-out of Python's own, a signal in between: the connection lives on."""
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 0.5, 0.5)
    connection = accept_one()
    for timeout in (0, 1.5, 1.5):
        connection.settimeout(timeout)
        try:
            connection.recv(100)
        except (BlockingIOError, TimeoutError) as error:
            print(type(error).__name__)
    connection.settimeout(None)
    connection.sendall(connection.recv(100))
    assert connection.recv(100) == b""
    connection.close()
    signal.setitimer(signal.ITIMER_REAL, 0)


def pauses():
    """A transport that reads nothing for 3 s, while the peer waits and is there."""

    class Pausing(asyncio.Protocol):
        def connection_made(self, transport):
            transport.pause_reading()
            asyncio.get_running_loop().call_later(3, transport.resume_reading)
            self.transport = transport

        def data_received(self, data):
            self.transport.write(data.upper())

        def connection_lost(self, exc):
            asyncio.get_running_loop().stop()

    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(loop.create_server(Pausing, "127.0.0.1", 0))
    print(server.sockets[0].getsockname()[1], flush=True)
    loop.run_forever()


def speaks_tls():
    """TLS: the socket that was accepted is another object than the one in use."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[1])
    connection = context.wrap_socket(accept_one(), server_side=True)
    gc.collect()
    for _ in range(2):
        connection.sendall(connection.recv(100).upper())
    connection.unwrap().close()


def uses_multiprocessing():
    """Connections of multiprocessing, which close the socket object and keep the number."""
    with multiprocessing.connection.Listener(("127.0.0.1", 0), authkey=b"secret") as listener:
        print(listener.address[1], flush=True)
        with listener.accept() as connection:
            for _ in range(2):
                connection.send([connection.recv(), "back"])
            try:
                connection.recv()
            except EOFError:
                print("EOF")


def has_pairs():
    """A pair of sockets within the process, one of them closed for 3 s."""
    left, right = socket.socketpair()
    right.sendall(b"last words")
    right.close()
    time.sleep(3)
    print(left.recv(4), left.recv(100), left.recv(100))


def has_unix_sockets():
    """A half-closed Unix peer waits 3 s for its answer."""
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{folder}/socket")
        listener.listen()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(f"{folder}/socket")
            client.shutdown(socket.SHUT_WR)
            server, _ = listener.accept()
            time.sleep(3)
            server.sendall(b"answer")
            server.close()
            print(client.recv(100), client.recv(100))


def speaks_udp():
    """A connected UDP socket whose peer is not there gets errors, and goes on working when it is."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.bind(("127.0.0.1", 0))
        address = peer.getsockname()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(address)
        sock.send(b"one")
        try:
            sock.recv(100)
        except ConnectionRefusedError:
            print("refused")
        time.sleep(3)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
            peer.bind(address)
            sock.send(b"two")
            print(peer.recv(100))


def shuts_its_listener_down():
    """A listener that was shut down is in state CLOSE for 3 s, as dead connections are, and then listens again."""
    listener = socket.create_server(("127.0.0.1", 0))
    with socket.create_connection(listener.getsockname()) as client, listener.accept()[0] as server:
        server.sendall(b"before")
        print(client.recv(100))
    listener.shutdown(socket.SHUT_RD)
    try:
        listener.accept()
    except OSError as error:
        print(error.errno == errno.EINVAL)
    time.sleep(3)
    listener.listen()
    with socket.create_connection(listener.getsockname()) as client, listener.accept()[0] as server:
        server.sendall(b"after")
        print(client.recv(100))


def is_refused():
    """A socket whose connect() was refused is kept for 3 s and connects with the next try, as Linux lets it."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    with socket.socket() as client:
        print(client.connect_ex(listener.getsockname()) == errno.ECONNREFUSED)
        time.sleep(3)
        listener.listen()
        client.connect(listener.getsockname())
        server, _ = listener.accept()
        server.sendall(b"hello")
        print(client.recv(100))


def connects_for_long():
    """A non-blocking connect() to a full queue stays under way for some seconds, and comes about."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(0)
    waiting = [socket.create_connection(listener.getsockname())]
    with socket.socket() as client:
        client.setblocking(False)
        print(client.connect_ex(listener.getsockname()) == errno.EINPROGRESS)
        time.sleep(3)
        print(select.select([], [client], [], 0)[1] == [])
        listener.accept()[0].close()
        waiting.pop().close()
        print(select.select([], [client], [], 20)[1] == [client])
        server, _ = listener.accept()
        server.sendall(b"hello")
        client.setblocking(True)
        print(client.recv(100))


def pair(listener):
    client = socket.create_connection(listener.getsockname())
    return client, listener.accept()[0]


def echo(client, server):
    client.sendall(b"ping")
    server.sendall(server.recv(100))
    return client.recv(100) == b"ping"


def fall_sick(ends):
    """Half-closes one end, and chooses when the other will be closed: about when the guard acts."""
    ends[0].shutdown(socket.SHUT_WR)
    return time.monotonic() + random.uniform(0.7, 1.7), ends


def let_go(ends):
    for end in ends:
        end.close()


def reuses_numbers():
    """Thousands of connections take the numbers of sick ones that were closed a moment before the guard would act."""
    listener = socket.create_server(("127.0.0.1", 0))
    healthy, sick = collections.deque(), []
    wrong = count = 0
    end_at = time.monotonic() + 5
    while (now := time.monotonic()) < end_at or count < 2000:
        sick.append(fall_sick(pair(listener)))
        for one in [one for one in sick if one[0] <= now]:
            sick.remove(one)
            let_go(one[1])
        for _ in range(8):
            healthy.append(pair(listener))
            wrong += not echo(*healthy[-1])
        while len(healthy) > 40:
            wrong += not echo(*healthy[0])
            let_go(healthy.popleft())
            count += 1
        time.sleep(0.01)
    print("wrong:", wrong)


def leaks():
    """The control: it does not close, so the guard has to act and to say so."""
    connection = accept_one()
    wait_for_fin(connection)
    time.sleep(4)
    connection.close()


def receive_all(sock, size=100_000, pause=0.0):
    received = bytearray()
    while data := sock.recv(size):
        received += data
        time.sleep(pause)
    return bytes(received)


def send_and_half_close(sent=b"", **how):
    """Gives a peer that connects, sends something, half-closes, and receives to the end."""

    def play(port):
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(sent)
            client.shutdown(socket.SHUT_WR)
            return receive_all(client, **how)

    return play


def read_slowly(port):
    """Half-closes, and takes 8 s to receive what comes."""
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        client.connect(("127.0.0.1", port))
        client.shutdown(socket.SHUT_WR)
        return len(receive_all(client, 20_000, 0.1))


def talk_twice(client):
    """Says something, is silent for 3 s, and says something again."""
    answers = []
    for words in (b"hello", b"again"):
        client.sendall(words)
        answers.append(client.recv(100))
        time.sleep(3 if words == b"hello" else 0)
    return answers


def talk(port):
    with socket.create_connection(("127.0.0.1", port)) as client:
        return talk_twice(client)


def talk_tls(port):
    context = ssl.create_default_context(cafile=CERTIFICATE)
    with (
        socket.create_connection(("127.0.0.1", port)) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as client,
    ):
        answers = [*talk_twice(client), client.recv(100)]
        client.unwrap().close()
        return answers


def talk_multiprocessing(port):
    with multiprocessing.connection.Client(("127.0.0.1", port), authkey=b"secret") as client:
        answers = []
        for words in ("hello", "again"):
            client.send(words)
            answers.append(client.recv())
            time.sleep(3 if words == "hello" else 0)
        return answers


def answer_late(port):
    with socket.create_connection(("127.0.0.1", port)) as client:
        question = receive_all(client)
        time.sleep(3)
        client.sendall(b"answer")
        return question


def say_late(port):
    """Says something after 4 s, and waits for the echo."""
    with socket.create_connection(("127.0.0.1", port)) as client:
        time.sleep(4)
        client.sendall(b"at last")
        return client.recv(100)


def ask(port):
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(b"question")
        return client.recv(100)


def visit_twice(port):
    return [send_and_half_close()(port) for _ in range(2)]


def just_receive(port):
    with socket.create_connection(("127.0.0.1", port)) as client:
        return receive_all(client)


CERTIFICATE = str(PROGRAMS / "localhost.pem")


class Case(NamedTuple):
    """A healthy program, who talks to it, and what they see and say."""

    program: Callable[[], None]
    peer: Callable[[int], object] | None = None
    saw: object = None
    printed: str = ""
    fin_timeout: float = 2
    words: tuple[str, ...] = ()
    has_sick_ones: bool = False
    """Whether the guard has something to do besides."""


CASES = {
    case.program.__name__ + f", {case.fin_timeout} s": case
    for case in (
        Case(works_it_off, send_and_half_close(bytes(60_000)), b"60000", fin_timeout=5),
        Case(works_it_off_in_asyncio, send_and_half_close(bytes(60_000)), b"60000", fin_timeout=5),
        Case(streams_events, send_and_half_close(), events(8.0), fin_timeout=5),
        Case(streams_events, send_and_half_close(), events(8.0), fin_timeout=3),
        Case(streams_events_in_asyncio, send_and_half_close(), events(8.0), fin_timeout=5),
        Case(streams_events_in_asyncio, send_and_half_close(), events(8.0), fin_timeout=3),
        Case(speaks_first_and_late, send_and_half_close(), b"220 welcome", fin_timeout=10),
        Case(speaks_first_and_late_in_asyncio, send_and_half_close(), b"220 welcome", fin_timeout=10),
        Case(has_a_slow_reader, read_slowly, 1_600_000, fin_timeout=5),
        Case(sends_a_file, read_slowly, 1_600_000, fin_timeout=5),
        Case(reuses_numbers, printed="wrong: 0\n", fin_timeout=1, has_sick_ones=True),
        Case(is_silent, talk, [b"HELLO", b"AGAIN"]),
        Case(reuses_a_stale_connection, printed="b'ok'\nstale\nb'ok'\n", fin_timeout=5),
        Case(duplicates, send_and_half_close(), events(), fin_timeout=3),
        Case(detaches, send_and_half_close(), events(), fin_timeout=3),
        Case(makes_a_file, send_and_half_close(), events(), fin_timeout=3),
        Case(hands_over, send_and_half_close(b"parked"), b"PARKED", fin_timeout=10),
        Case(forks, visit_twice, [events(), events(0.1)], fin_timeout=3),
        Case(parent_streams_on, send_and_half_close(), events(1.0) + events(), fin_timeout=3),
        Case(stops_reading, just_receive, events(1.0)),
        Case(half_closes_itself, answer_late, b"question", printed="b'answer'\n"),
        Case(gets_errors_that_are_none, say_late, b"at last", "BlockingIOError\nTimeoutError\nTimeoutError\n"),
        Case(pauses, ask, b"QUESTION"),
        Case(speaks_tls, talk_tls, [b"HELLO", b"AGAIN", b""], words=(CERTIFICATE,)),
        Case(uses_multiprocessing, talk_multiprocessing, [["hello", "back"], ["again", "back"]], "EOF\n"),
        Case(has_pairs, printed="b'last' b' words' b''\n"),
        Case(has_unix_sockets, printed="b'answer' b''\n"),
        Case(speaks_udp, printed="refused\nb'two'\n"),
        Case(shuts_its_listener_down, printed="b'before'\nTrue\nb'after'\n"),
        Case(is_refused, printed="True\nb'hello'\n"),
        Case(connects_for_long, printed="True\nTrue\nTrue\nb'hello'\n"),
    )
}


class Played(NamedTuple):
    """How it went."""

    saw: object
    printed: str
    status: int
    log: str


def play(case, *, is_guarded):
    """Plays a case to its end."""
    options = ["--fin-timeout", case.fin_timeout] if is_guarded else None
    with running(case.program, options, *case.words) as program:
        saw = case.peer(program.port()) if case.peer else None
        ended = program.finish()
    return Played(saw, ended.out, ended.status, ended.err)


@pytest.fixture(scope="session")
def plays(request):
    """Gives a function from the name of a case to how it went, bare and guarded; all that are wanted run at once."""
    wanted = {item.callspec.params["name"] for item in request.session.items if item.originalname == PLAYING}
    with Players(16) as players:
        games = {
            name: [players.submit(play, case, is_guarded=is_guarded) for is_guarded in (False, True)]
            for name, case in CASES.items()
            if name in wanted
        }
        yield lambda name: [game.result() for game in games[name]]


@pytest.mark.parametrize("name", CASES)
def test_guard_leaves_healthy_programs_alone(name, plays):
    """What the program prints and what its peer sees is the same with the guard, and the guard ends nothing."""
    case = CASES[name]
    bare, guarded = plays(name)
    assert (bare.saw, bare.printed, bare.status, bare.log) == (case.saw, case.printed, 0, "")
    assert (guarded.saw, guarded.printed, guarded.status) == (bare.saw, bare.printed, bare.status), guarded.log
    assert ("connection_closed" in guarded.log) == case.has_sick_ones, guarded.log
    assert "Traceback" not in guarded.log


PLAYING = test_guard_leaves_healthy_programs_alone.__name__


def test_guard_does_not_leave_a_leaking_program_alone():
    """The control: what forgets to close is ended, the peer sees it, and the log names the event."""
    case = Case(leaks, send_and_half_close(), fin_timeout=1)
    played = play(case, is_guarded=True)
    assert (played.saw, played.status) == (b"", 0)
    assert "connection_closed" in played.log
