"""Descriptors whose connection is over: no table of the kernel lists them, and the descriptor is still taken."""

import os
import socket

import pytest

from children import start_child
from commands import only_leak, report
from netstat import CLOSE_WAIT, ESTABLISHED, rows, wait_for
from servers import port_of, teach
from waiting import eventually

pytestmark = [pytest.mark.slow, pytest.mark.one_python]

STATE_IN_CHILD = "server.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]"
CLOSE = "7"

ACCEPT = """
listener = socket.create_server(("127.0.0.1", 0))
port = listener.getsockname()[1]
"""


@pytest.mark.parametrize("first", ["RST alone", "FIN, then RST"])
def test_connection_that_was_reset(first):
    """A reset connection is in no table; the report finds its descriptor: cause dead_fd, state CLOSE, no peer."""
    with start_child() as child:
        teach(child, ACCEPT)
        port = int(child.ask("port"))
        client = socket.create_connection(("127.0.0.1", port))
        child.do("server, _ = listener.accept()")
        peer_port = client.getsockname()[1]
        if first != "RST alone":
            client.shutdown(socket.SHUT_WR)
            wait_for(port, state=CLOSE_WAIT)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, bytes([1, 0, 0, 0, 0, 0, 0, 0]))
        client.close()
        eventually(lambda: child.ask(STATE_IN_CHILD) == CLOSE)
        assert not [row for row in rows(port) if row.remote_port]
        leak = only_leak(child.pid)
        fd = int(child.ask("server.fileno()"))
        inode = os.stat(f"/proc/{child.pid}/fd/{fd}").st_ino
    expected = {
        "pid": child.pid,
        "fd": fd,
        "inode": inode,
        "state": "CLOSE",
        "remote": f"127.0.0.1:{peer_port}",
        "cause": "dead_fd",
        "age_is": "about",
        "holders": [{**leak["holders"][0], "pid": child.pid, "fd": fd}],
    }
    assert leak == {**leak, **expected}
    assert leak["cookie"]


def test_connection_that_keepalive_has_ended():
    """Keepalive meets a peer that has forgotten the connection: it leaves every table, and is reported all the same."""
    with start_child() as child:
        teach(
            child,
            ACCEPT
            + """
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 1)
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1)
            """.replace("\n            ", "\n"),
        )
        port = int(child.ask("port"))
        client = socket.create_connection(("127.0.0.1", port))
        child.do("server, _ = listener.accept()")
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_LINGER2, 1)  # our orphan is forgotten after a second
        remote = f"127.0.0.1:{client.getsockname()[1]}"
        client.close()
        eventually(lambda: child.ask(STATE_IN_CHILD) == CLOSE, timeout=30)
        leak = only_leak(child.pid)
    assert (leak["state"], leak["remote"], leak["cause"]) == ("CLOSE", remote, "dead_fd")


def test_dead_descriptor_of_ipv6():
    """A dead IPv6 connection is found as well, and `--all` lists it once."""
    with start_child() as child:
        child.do("listener = socket.create_server(('::1', 0), family=socket.AF_INET6)")
        client = socket.create_connection(("::1", int(child.ask("listener.getsockname()[1]"))))
        child.do("server, _ = listener.accept()")
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, bytes([1, 0, 0, 0, 0, 0, 0, 0]))
        client.close()
        eventually(lambda: child.ask(STATE_IN_CHILD) == CLOSE)
        (leak,) = [leak for leak in report()["leaks"] if leak["pid"] == child.pid]
        assert (leak["cause"], leak["state"]) == ("dead_fd", "CLOSE")
        assert leak["cookie"] == only_leak(child.pid)["cookie"]


def test_shut_down_by_both_sides_and_kept():
    """A connection that both sides ended and nobody closed is a dead descriptor too."""
    with start_child() as child:
        teach(child, ACCEPT)
        with socket.create_connection(("127.0.0.1", int(child.ask("port")))) as client:
            child.do("server, _ = listener.accept()")
            client.shutdown(socket.SHUT_WR)
            child.do("server.shutdown(socket.SHUT_WR)")
            eventually(lambda: child.ask(STATE_IN_CHILD) == CLOSE)
        assert only_leak(child.pid)["cause"] == "dead_fd"


NEVER_CONNECTED = {
    "fresh": "s = socket.socket()",
    "fresh IPv6": "s = socket.socket(socket.AF_INET6)",
    "bound": "s = socket.socket(); s.bind(('127.0.0.1', 0))",
    "refused": "s = socket.socket(); print(s.connect_ex(('127.0.0.1', unused)))",
    "listened once": "s = socket.create_server(('127.0.0.1', 0)); s.shutdown(socket.SHUT_RDWR)",
}


@pytest.mark.parametrize("how", NEVER_CONNECTED)
def test_socket_that_never_connected(how):
    """A socket that is only fresh, bound or refused has the state CLOSE as well, and is not reported."""
    with start_child() as child:
        child.do("f = socket.socket(); f.bind(('127.0.0.1', 0)); unused = f.getsockname()[1]")
        child.do(NEVER_CONNECTED[how])
        state = child.ask("s.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]")
        assert state == CLOSE
        assert report(child.pid)["leaks"] == []


def test_refusal_after_a_connection_is_told_from_it():
    """Beside dead descriptors, live connections and never connected sockets are left out."""
    with start_child() as child, socket.create_server(("127.0.0.1", 0)) as listener:
        child.do(f"live = socket.create_connection(('127.0.0.1', {port_of(listener)})); fresh = socket.socket()")
        child.do(f"dead = socket.create_connection(('127.0.0.1', {port_of(listener)}))")
        kept, _ = listener.accept()
        gone, _ = listener.accept()
        gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, bytes([1, 0, 0, 0, 0, 0, 0, 0]))
        gone.close()
        eventually(lambda: child.ask(STATE_IN_CHILD.replace("server", "dead")) == CLOSE)
        with kept:
            wait_for(int(child.ask("live.getsockname()[1]")), state=ESTABLISHED)
            assert only_leak(child.pid)["fd"] == int(child.ask("dead.fileno()"))
