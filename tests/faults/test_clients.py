"""Connections that we opened and the server hung up on: stale clients, and clients that stopped reading."""

import contextlib
import socket
import ssl
from collections.abc import Iterator

import pytest

from children import Child, start_child
from commands import PROGRAMS, only_leak, report
from netstat import CLOSE_WAIT, wait_for
from servers import port_of, start_program

pytestmark = [pytest.mark.slow, pytest.mark.one_python]


@contextlib.contextmanager
def client_of(listener: socket.socket) -> Iterator[tuple[Child, socket.socket, int]]:
    """Starts a child with a connection to a listener of ours; gives it, our end, and the port of its end."""
    with start_child() as child:
        child.do(f"client = socket.create_connection({listener.getsockname()[:2]!r})")
        server, (_, port, *_) = listener.accept()
        with server:
            yield child, server, port


@pytest.mark.parametrize("reads", ["nothing", "the EOF"])
def test_client_whose_server_hung_up(reads):
    """A client with nothing left to read is stale, whether it has noticed the EOF or not."""
    with socket.create_server(("127.0.0.1", 0)) as listener, client_of(listener) as (child, server, port):
        server.close()
        wait_for(port, state=CLOSE_WAIT)
        if reads == "the EOF":
            assert child.ask("client.recv(10)") == "b''"
        leak = only_leak(child.pid)
        ends = (f"127.0.0.1:{port}", f"127.0.0.1:{port_of(listener)}")
    assert (leak["cause"], leak["side"]) == ("stale_client", "client")
    assert (leak["local"], leak["remote"]) == ends


def test_client_that_had_a_conversation():
    """Requests and answers before the hang-up do not change that we were the client."""
    with socket.create_server(("127.0.0.1", 0)) as listener, client_of(listener) as (child, server, port):
        for _ in range(3):
            child.do("client.sendall(b'request')")
            assert server.recv(100) == b"request"
            server.sendall(b"answer")
            assert child.ask("client.recv(100)") == "b'answer'"
        server.close()
        wait_for(port, state=CLOSE_WAIT, send_queue=0)
        leak = only_leak(child.pid)
    assert (leak["cause"], leak["side"]) == ("stale_client", "client")


def test_client_that_stopped_reading_an_answer():
    """A client with an unread answer is not merely stale: it stopped reading."""
    with socket.create_server(("127.0.0.1", 0)) as listener, client_of(listener) as (child, server, port):
        server.sendall(b"answer" * 100)
        server.close()
        wait_for(port, state=CLOSE_WAIT, recv_queue=601)
        leak = only_leak(child.pid)
    assert (leak["cause"], leak["side"], leak["recv_queue"]) == ("unread", "client", 601)


def test_process_that_is_its_own_client():
    """Where both ends are in one process, each end is judged for itself: the server's is no client."""
    with start_child() as child:
        child.do("listener = socket.create_server(('127.0.0.1', 0))")
        child.do("client = socket.create_connection(listener.getsockname()); server, _ = listener.accept()")
        child.do("second = socket.create_connection(listener.getsockname()); served, _ = listener.accept()")
        child.do("client.close(); served.close()")
        ports = {name: int(child.ask(f"{name}.getsockname()[1]")) for name in ("listener", "second")}
        wait_for(ports["listener"], state=CLOSE_WAIT)
        wait_for(ports["second"], state=CLOSE_WAIT)
        found = {leak["local"]: (leak["cause"], leak["side"]) for leak in report(child.pid)["leaks"]}
    assert found == {
        f"127.0.0.1:{ports['listener']}": ("eof_unread", "server"),
        f"127.0.0.1:{ports['second']}": ("stale_client", "client"),
    }


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
def test_unread_close_notify_does_not_count(version):
    """A TLS client with only the server's close_notify unread is stale: no answer of the server is lost."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(PROGRAMS / "localhost.pem")
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        start_program(str(port_of(listener)), version, name="tls_client.py") as process,
    ):
        plain, (_, port) = listener.accept()
        with context.wrap_socket(plain, server_side=True) as server:
            server.sendall(b"welcome")
            assert process.stdout.readline().strip()
            with contextlib.suppress(ssl.SSLWantReadError):
                server.setblocking(False)
                server.unwrap()
        (row,) = wait_for(port, state=CLOSE_WAIT)
        leak = only_leak(process.pid)
    assert row.recv_queue > 1
    assert leak["recv_queue"] == row.recv_queue
    assert (leak["cause"], leak["side"]) == ("stale_client", "client")
