"""Everything that looks like a leak and is none: exit status 0 and an empty list, each time.

Beside most of them stands the leak that they resemble, so that silence proves something.
"""

import contextlib
import http.server
import os
import socket
import threading
import time

import pytest

from children import start_child
from commands import only_leak, report, run
from netstat import CLOSE_WAIT, ESTABLISHED, FIN_WAIT2, wait_for
from servers import teach
from waiting import eventually

pytestmark = pytest.mark.slow

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
    while sipping and connection.recv(200):
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
            assert report(child.pid, min_age=3)["leaks"] == []
    assert all(received)
    assert report(child.pid, min_age=3)["leaks"] == []
    assert wait_for(port, state=CLOSE_WAIT)


def test_half_closed_peer_with_a_long_answer_in_two_looks(child, port, client):
    """Two looks see the same stream move and leave it out, whatever the age says."""
    client.shutdown(socket.SHUT_WR)
    wait_for(port, state=CLOSE_WAIT)
    assert only_leak(child.pid)["cause"] == "eof_unread"
    teach(child, STREAM)
    reader = threading.Thread(target=lambda: [None for _ in iter(lambda: _receive(client), b"")], daemon=True)
    reader.start()
    assert report(child.pid, options=["--wait", "2"])["leaks"] == []
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
    assert report(child.pid, min_age=10)["leaks"] == []
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
    assert report(child.pid, options=["--wait", "3"])["leaks"] == []
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
                assert report(os.getpid())["leaks"] == []
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
