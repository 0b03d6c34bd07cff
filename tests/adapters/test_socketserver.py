"""Servers with the mix-in close each request when its handler is through, and the guard ends who is stuck."""

import contextlib
import http.client
import http.server
import os
import socket
import socketserver
import ssl
import struct
import threading
import time

import pytest

import sockguard
from forks import succeeds_in_child
from loopback import state_of
from loops import client_tls, server_tls
from sockguard import _process
from sockguard._core.policy import Heartbeat, Keepalive, Policy
from sockguard._engine.current import set_maker
from sockguard._kernel.backend import KERNEL_KEEPS_BOOKS
from sockguard.errors import UsageError
from waiting import eventually
from wrapped import shared

pytestmark = pytest.mark.filterwarnings(
    "ignore:This process .* is multi-threaded:DeprecationWarning"
)  # forking servers

CLOSE = 7
KINDS = {
    "plain": socketserver.TCPServer,
    "threading": socketserver.ThreadingTCPServer,
    "forking": socketserver.ForkingTCPServer,
    "unix": socketserver.UnixStreamServer,
    "threading unix": socketserver.ThreadingUnixStreamServer,
    "forking unix": type("ForkingUnix", (socketserver.ForkingMixIn, socketserver.UnixStreamServer), {}),
}
ENDS = [(kind, way) for kind in KINDS for way in ("returns", "raises")]
ENDS += [(kind, "exits") for kind in KINDS if kind not in {"plain", "unix"}]  # there it ends the whole server, as ever


@pytest.fixture(autouse=True)
def d():
    """A guard that does nothing but at `d.tick()`."""
    with shared() as d:
        yield d


@contextlib.contextmanager
def serving(kind, handle, **attributes):
    """Runs a server of some kind with the mix-in, whose handler is a function of the handler object."""

    class Handler(attributes.pop("handler", socketserver.StreamRequestHandler)):
        def handle(self):
            handle(self)

    def errors(_self, _request, _address):
        pass  # instead of a traceback on stderr

    base = KINDS.get(kind, kind)
    class_ = type(
        "Server", (sockguard.GuardedServerMixin, base), {"handle_error": errors, "daemon_threads": True, **attributes}
    )
    address = attributes.get("address", ("127.0.0.1", 0))
    before = set(threading.enumerate())
    with class_(address, Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            for started in set(threading.enumerate()) - before:
                started.join(20)  # what a handler raises is told as this test's, not as the next one's


@pytest.fixture
def address_of(tmp_path):
    """Gives the address for a kind."""
    return lambda kind: os.fspath(tmp_path / "s") if "unix" in kind else ("127.0.0.1", 0)


def connect_to(server) -> socket.socket:
    """Connects to a server of any kind."""
    client = socket.socket(server.address_family)
    client.settimeout(20)
    client.connect(server.socket.getsockname())
    return client


def is_closed(client, d) -> bool:
    """Tells whether the other end is closed, in the other process too: our end sees an end, and bytes are refused."""
    with contextlib.suppress(ConnectionResetError):
        if client.recv(99) != b"":
            return False
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        return bool(eventually(lambda: (d.tick(), client.send(b"x"))[0]))
    return True


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize(("kind", "way"), ENDS)
def test_a_request_is_closed_when_its_handler_is_through(d, address_of, kind, way):
    """In whatever way it ends: the peer gets the whole answer, then the end, and nobody keeps the descriptor."""
    kept = []

    def handle(handler):
        kept.append((handler.request, handler.rfile, handler.wfile))
        handler.wfile.write(handler.rfile.readline().upper())
        if way == "raises":
            raise RuntimeError
        if way == "exits":
            raise SystemExit

    with serving(kind, handle, address=address_of(kind)) as server, connect_to(server) as client:
        client.sendall(b"hello\n")
        assert client.recv(99) == b"HELLO\n"
        assert is_closed(client, d)
        assert "forking" in kind or eventually(lambda: kept[0][0].fileno() == -1)


@pytest.mark.parametrize("mixin", [True, False])
def test_a_file_that_a_handler_keeps_does_not_keep_the_connection(mixin):
    """Its setup() fails after the files are made: the plain server leaves the connection to the garbage collector."""
    kept = []

    class Handler(socketserver.StreamRequestHandler):
        def setup(self):
            super().setup()
            kept.append((self.request, self.rfile))
            raise RuntimeError

    bases = (sockguard.GuardedServerMixin,) * mixin + (socketserver.TCPServer,)
    server_class = type("Server", bases, {"handle_error": lambda *_: None})
    with server_class(("127.0.0.1", 0), Handler) as server, connect_to(server):
        server.handle_request()
        assert (kept[0][0].fileno() == -1) is mixin
        kept[0][1].close()
        kept[0][0].close()


@pytest.mark.parametrize("mixin", [True, False])
def test_a_request_is_closed_if_it_cannot_be_verified(mixin):
    """The exception goes through, as ever; the request does not stay open for it."""
    kept = []

    class Plain(socketserver.TCPServer):
        def verify_request(self, request, _address):
            kept.append(request)
            raise KeyError

    server_class = type("Server", (sockguard.GuardedServerMixin,) * mixin + (Plain,), {})
    with server_class(("127.0.0.1", 0), socketserver.BaseRequestHandler) as server, connect_to(server):
        with pytest.raises(KeyError):
            server.handle_request()
        assert (kept[0].fileno() == -1) is mixin
        kept[0].close()


def test_who_is_refused_is_closed(d):
    """As ever."""
    with serving("plain", lambda _: None, verify_request=lambda *_: False) as server, connect_to(server) as client:
        assert is_closed(client, d)


def test_the_policy_is_the_classes_or_the_constructors():
    """The constructor wins; without any it is that of the process's guard; what is none is refused."""

    class Server(sockguard.GuardedServerMixin, socketserver.TCPServer):
        policy = Policy(idle_timeout=7, keepalive=Keepalive(idle=77))

    def policy_of(server):
        with server, connect_to(server):
            request, _ = server.get_request()
            with request:
                return request.connection.policy, request.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE)

    address, handler = ("127.0.0.1", 0), socketserver.BaseRequestHandler
    assert policy_of(Server(address, handler)) == (Server.policy, 77)
    own = Policy(idle_timeout=8, keepalive=Keepalive(idle=88))
    assert policy_of(Server(address, handler, policy=own)) == (own, 88)
    Server.policy = None
    assert policy_of(Server(address, handler))[0] == Policy()
    with pytest.raises(UsageError, match=r"is no sockguard\.Policy"):
        Server(address, handler, policy=7)


def test_a_handler_that_is_stuck_is_ended_by_the_guard(d):
    """It waits for a peer that says nothing; it is woken, and its thread ends."""
    threads = []

    def handle(handler):
        threads.append(threading.current_thread())
        handler.rfile.readline()

    with serving("threading", handle, policy=Policy(idle_timeout=5)) as server, connect_to(server) as client:
        eventually(lambda: threads)
        for _ in range(4):
            d.tick(5)
        assert client.recv(9) == b""
        threads[0].join(20)
        assert not threads[0].is_alive()
        assert d.closed() == [("idle", "shut_down")]


def test_a_handler_that_is_parked_loses_its_descriptor(d):
    """It waits for something else, and its peer has gone: the guard releases the connection without its help."""
    requests, goes_on = [], threading.Event()

    def handle(handler):
        requests.append(handler.request)
        goes_on.wait(10)

    policy = Policy(fin_timeout=5)
    base = socketserver.BaseRequestHandler
    with serving("threading", handle, handler=base, policy=policy) as server, connect_to(server) as client:
        eventually(lambda: requests)
        client.shutdown(socket.SHUT_WR)
        eventually(lambda: requests[0].connection.state == "half_closed")
        for _ in range(4):
            d.tick(5)
        assert " fd=-1," in repr(requests[0])
        goes_on.set()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["threading", "forking"])
def test_the_answer_arrives_though_the_request_was_not_read(d, kind):
    """The handler answers an upload without reading it. To close with unread bytes would be a reset."""
    answer, (done, says_done) = b"too large" * 50000, os.pipe()

    def handle(handler):
        handler.request.recv(1, socket.MSG_PEEK)  # select() would be told the number
        handler.wfile.write(answer)
        os.write(says_done, b"x")

    with serving(kind, handle) as server, socket.socket() as client:
        client.settimeout(20)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(server.server_address)
        client.sendall(b"x" * 50000)
        assert os.read(done, 1) == b"x"
        assert kind != "threading" or eventually(lambda: len(d.guard.lingering)) == 1
        with contextlib.suppress(AssertionError):
            eventually(lambda: state_of(client) == CLOSE, timeout=0.3)  # were it reset
        with client.makefile("rb") as file:
            assert len(file.read(len(answer))) == len(answer)
        client.shutdown(socket.SHUT_WR)
        d.tick()
        assert client.recv(1) == b""
    os.close(done)
    os.close(says_done)


def test_a_request_that_was_handed_out_is_not_drained(d):
    """As to a process that is to answer it, like a CGI script: it reads the request after the handler has returned."""
    requests, handed_on = [], []

    def handle(handler):
        handler.request.recv(1, socket.MSG_PEEK)
        requests.append(handler.request)
        handed_on.append(socket.socket(fileno=os.dup(handler.request.fileno())))

    kind = socketserver.BaseRequestHandler
    with serving("threading", handle, handler=kind) as server, connect_to(server) as client:
        server.shutdown_request = server.close_request  # as such servers do, which leave the end to the other process
        client.sendall(b"request")
        (other,) = eventually(lambda: handed_on)
        with other:
            eventually(lambda: " fd=-1," in repr(requests[0]))
            assert other.recv(99) == b"request"
            other.sendall(b"answer")
            assert client.recv(99) == b"answer"
    assert len(d.guard.lingering) == 0


@pytest.mark.slow
def test_the_parent_of_a_forking_server_ends_nothing(d):
    """It closes its copy at once, though the request lies there unread; the child serves on."""

    def handle(handler):
        for line in handler.rfile:
            handler.wfile.write(line.upper())

    with serving("forking", handle) as server, connect_to(server) as client:
        for word in (b"one\n", b"two\n", b"three\n"):
            client.sendall(word)
            assert client.recv(99) == word.upper()
            d.tick()
        client.shutdown(socket.SHUT_WR)
        assert client.recv(9) == b""


@pytest.fixture
def own_guard():
    """Lets the guard of this process be the one that is used, with its thread, here and in children."""
    set_maker(_process._share)  # noqa: SLF001
    yield
    _process.end()


@pytest.mark.slow
@pytest.mark.usefixtures("own_guard")
@pytest.mark.parametrize("kind", ["threading", "forking", "forking unix"])
def test_who_serves_a_request_asks_its_peer(address_of, kind):
    """A forked child does, and it alone, as its parent has closed its copy; the answer is taken out."""
    policy = Policy(heartbeat=Heartbeat(b"ping\n", 0.3, 60, b"pong\n"))

    def handle(handler):
        handler.request.settimeout(20)
        handler.wfile.write(handler.rfile.readline())
        handler.wfile.write(b"%d" % (handler.request.connection.rtt is not None))

    with serving(kind, handle, address=address_of(kind), policy=policy) as server, connect_to(server) as client:
        assert client.recv(5) == b"ping\n"
        client.sendall(b"pong\ndata\n")
        with client.makefile("rb") as file:
            assert file.read().replace(b"ping\n", b"") == b"data\n1"  # of the latter, more may come at any time


@pytest.mark.slow
@pytest.mark.usefixtures("own_guard")
def test_a_forked_child_whose_peer_answers_nothing_is_woken(tmp_path):
    """By its own guard, for that reason."""
    policy, path = Policy(heartbeat=Heartbeat(b"ping\n", 0.3, 1, b"pong\n")), tmp_path / "reason"

    def handle(handler):
        handler.request.settimeout(20)
        with contextlib.suppress(OSError):
            handler.request.recv(9)
        path.write_text(str(handler.request.connection.ended_by))

    with serving("forking", handle, handler=socketserver.BaseRequestHandler, policy=policy) as server:
        with connect_to(server) as client:
            assert client.recv(5) == b"ping\n"
            assert client.recv(5) == b""
        assert "had not answered a heartbeat" in eventually(lambda: path.exists() and path.read_text())


class Page(http.server.BaseHTTPRequestHandler):
    """Serves one page, and keeps the connection."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        body = self.path.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def test_http_servers_are_guarded(d):
    """A kept connection works, and is ended when it is idle for too long."""

    class Server(sockguard.GuardedServerMixin, http.server.ThreadingHTTPServer):
        policy = Policy(idle_timeout=5)

    with Server(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        client = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
        for path in ("/one", "/two"):
            client.request("GET", path)
            assert client.getresponse().read() == path.encode()
        for _ in range(4):
            d.tick(5)
        assert client.sock.recv(9) == b""
        assert d.closed() == [("idle", "shut_down")]
        client.close()
        server.shutdown()


@pytest.mark.skipif(not KERNEL_KEEPS_BOOKS, reason="needs the kernel's books")
def test_servers_under_tls_are_guarded(d):
    """Where the listener is wrapped, as is usual: what it accepts is ended by the policy of the server."""

    class Server(sockguard.GuardedServerMixin, socketserver.ThreadingTCPServer):
        policy = Policy(idle_timeout=5)
        daemon_threads = True

    class Handler(socketserver.BaseRequestHandler):
        def handle(self):
            self.request.sendall(b"hello")
            self.request.recv(9)

    with Server(("127.0.0.1", 0), Handler) as server:
        server.socket = server_tls().wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        plain = socket.create_connection(server.server_address, timeout=20)
        with client_tls().wrap_socket(plain) as client:
            assert client.recv(9) == b"hello"
            for _ in range(4):
                d.tick(5)
            with contextlib.suppress(ssl.SSLError):
                assert client.recv(9) == b""
        assert [reason for reason, _ in d.closed()] == ["idle"]
        server.shutdown()
        thread.join(20)


def test_datagram_servers_are_as_ever():
    """Their requests are no connections."""

    class Server(sockguard.GuardedServerMixin, socketserver.UDPServer):
        pass

    class Handler(socketserver.DatagramRequestHandler):
        def handle(self):
            self.wfile.write(self.rfile.read().upper())

    with Server(("127.0.0.1", 0), Handler) as server, socket.socket(type=socket.SOCK_DGRAM) as client:
        client.sendto(b"hello", server.server_address)
        server.handle_request()
        assert client.recv(9) == b"HELLO"


def test_who_wants_a_reset_gets_one():
    """SO_LINGER of the handler's own wins."""

    def handle(handler):
        handler.rfile.readline()
        handler.request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        handler.server.close_request(handler.request)

    with serving("threading", handle) as server, connect_to(server) as client:
        client.sendall(b"hello\n")
        with pytest.raises(ConnectionResetError):
            client.recv(9)


def test_observing_closes_nothing(d):
    """A request that a handler keeps open is left to it, as by the plain server."""
    kept = []

    class Keeps(socketserver.StreamRequestHandler):
        def handle(self):
            kept.append(self.rfile)

        def finish(self):
            raise ConnectionError("before the files are closed")

    class Server(sockguard.GuardedServerMixin, socketserver.TCPServer):
        policy = Policy(mode="observe")

        def handle_error(self, request, client_address):
            pass

    with Server(("127.0.0.1", 0), Keeps) as server, socket.create_connection(server.server_address):
        server.handle_request()
        assert kept[0].raw._sock.fileno() >= 0  # noqa: SLF001 - the socket below a file
        kept[0].raw._sock.close()  # noqa: SLF001
        kept[0].close()


def test_a_server_that_was_made_before_a_fork_drains_in_the_background(d):
    """Workers that share a listener serve on; only the child that was forked for one request may wait for it."""

    class Refuses(socketserver.BaseRequestHandler):
        def handle(self):
            self.request.sendall(b"no")

    class Server(sockguard.GuardedServerMixin, socketserver.TCPServer):
        policy = Policy(drain_timeout=30)

    with Server(("127.0.0.1", 0), Refuses) as server:

        def does_not_wait() -> bool:
            with socket.create_connection(server.server_address) as client:
                client.sendall(b"an upload")
                began = time.monotonic()
                server.handle_request()
                return time.monotonic() - began < 15

        assert succeeds_in_child(does_not_wait)
