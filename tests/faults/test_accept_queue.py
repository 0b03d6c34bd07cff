"""Connections that nobody accepts: no descriptor and no inode lead to them, only the listener that they wait at."""

import contextlib
import socket
from collections.abc import Iterator

import pytest

from children import Child, start_child
from commands import only_leak, report
from netstat import CLOSE_WAIT, ESTABLISHED, wait_for
from servers import teach

pytestmark = [pytest.mark.slow, pytest.mark.one_python]


@contextlib.contextmanager
def lazy_listener(address: tuple[str, int] = ("127.0.0.1", 0), **options: object) -> Iterator[tuple[Child, int]]:
    """Starts a child that listens with a backlog of 8, and accepts only when it is told."""
    options = {"family": socket.AF_INET, **options}
    words = ", ".join(f"{name}={int(value)}" for name, value in options.items())
    with start_child() as child:
        child.do(f"listener = socket.create_server({address!r}, backlog=8, {words})")
        yield child, int(child.ask("listener.getsockname()[1]"))


def hang_up(port: int, count: int, host: str = "127.0.0.1", data: bytes = b"hello") -> None:
    for _ in range(count):
        with socket.create_connection((host, port)) as client:
            client.sendall(data)


def test_names_who_does_not_accept():
    """A connection in the queue has neither descriptor nor inode; its process is the one that listens."""
    with lazy_listener() as (child, port):
        hang_up(port, 1)
        wait_for(port, state=CLOSE_WAIT)
        leak = only_leak(child.pid)
    expected = {
        "pid": child.pid,
        "fd": None,
        "inode": None,
        "state": "CLOSE_WAIT",
        "local": f"127.0.0.1:{port}",
        "side": "server",
        "cause": "not_accepted",
        "recv_queue": 6,
        "holders": [],
        "age_is": "exact",
    }
    assert leak == {**leak, **expected}
    assert leak["cookie"]


def test_tells_how_full_the_queue_is():
    """The listener's row has what waits, how much of it has hung up already, and how many may wait."""
    with lazy_listener() as (child, port), socket.create_connection(("127.0.0.1", port)):
        hang_up(port, 5)
        wait_for(port, count=5, state=CLOSE_WAIT)
        found = report(child.pid)
        fd = int(child.ask("listener.fileno()"))
    assert len(found["leaks"]) == 5
    (listener,) = found["processes"][0]["listeners"]
    expected = {"local": f"127.0.0.1:{port}", "fd": fd, "queued": 6, "backlog": 8, "queued_close_wait": 5}
    assert listener == expected


def test_accepting_them_gives_them_a_descriptor():
    """Once accepted, the connection is the same, by its cookie, with a descriptor and another cause."""
    with lazy_listener() as (child, port):
        hang_up(port, 1)
        wait_for(port, state=CLOSE_WAIT)
        before = only_leak(child.pid)
        child.do("server, _ = listener.accept()")
        after = only_leak(child.pid)
        assert (before["cause"], after["cause"]) == ("not_accepted", "unread")
        assert after["cookie"] == before["cookie"]
        assert after["fd"] == int(child.ask("server.fileno()"))


def test_descriptor_limit_that_is_used_up():
    """Where accept() fails with EMFILE, the process is listed with all its descriptors used."""
    with lazy_listener() as (child, port):
        teach(
            child,
            """
            import os, resource
            resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
            copies = []
            try:
                while True:
                    copies.append(os.dup(0))
            except OSError:
                pass
            """,
        )
        hang_up(port, 2)
        wait_for(port, count=2, state=CLOSE_WAIT)
        found = report(child.pid)
        assert {leak["cause"] for leak in found["leaks"]} == {"not_accepted"}
        (process,) = found["processes"]
        assert process["fd_used"] == process["fd_limit"] == 64


@pytest.mark.parametrize("bound", ["0.0.0.0", "127.0.0.1"])
def test_listener_on_all_addresses(bound):
    """A connection to one address is attributed to a listener on all of them."""
    with lazy_listener((bound, 0)) as (child, port):
        hang_up(port, 1)
        wait_for(port, state=CLOSE_WAIT)
        leak = only_leak(child.pid)
        assert (leak["pid"], leak["local"], leak["cause"]) == (child.pid, f"127.0.0.1:{port}", "not_accepted")


def test_exact_address_goes_before_all_addresses():
    """Of two listeners on one port, the one bound to the very address is blamed, not the one bound to all."""
    with (
        lazy_listener(("127.0.0.2", 0), reuse_port=True) as (exact, port),
        lazy_listener(("0.0.0.0", port), reuse_port=True) as (other, _),
    ):
        hang_up(port, 2, host="127.0.0.2")
        wait_for(port, count=2, state=CLOSE_WAIT)
        assert len(report(exact.pid)["leaks"]) == 2
        assert report(other.pid)["leaks"] == []
        hang_up(port, 1, host="127.0.0.3")
        assert only_leak(other.pid)["local"] == f"127.0.0.3:{port}"


def test_reuseport_pair_blames_the_one_with_the_queue():
    """Of two processes on one port, the one that accepts is not blamed for the queue of the other."""
    with (
        lazy_listener(reuse_port=True) as (lazy, port),
        lazy_listener(("127.0.0.1", port), reuse_port=True) as (busy, _),
    ):
        with contextlib.ExitStack() as clients:
            for _ in range(8):
                clients.enter_context(socket.create_connection(("127.0.0.1", port)))
            teach(
                busy,
                """
                listener.settimeout(0)
                accepted = []
                try:
                    while True:
                        accepted.append(listener.accept())
                except BlockingIOError:
                    pass
                """,
            )
            n_accepted = int(busy.ask("len(accepted)"))
            wait_for(port, count=n_accepted, state=ESTABLISHED, inode=True)
        wait_for(port, count=8, state=CLOSE_WAIT)
        causes = {pid: [leak["cause"] for leak in report(pid)["leaks"]] for pid in (lazy.pid, busy.pid)}
        assert causes == {
            lazy.pid: ["not_accepted"] * (8 - n_accepted),
            busy.pid: ["eof_unread"] * n_accepted,
        }
        assert len(report(lazy.pid, busy.pid)["leaks"]) == 8


def test_closed_queue_is_no_leak():
    """When the listener is closed, its queue is reset and the report is silent."""
    with lazy_listener() as (child, port):
        hang_up(port, 3)
        wait_for(port, count=3, state=CLOSE_WAIT)
        child.do("listener.close()")
        assert report(child.pid)["leaks"] == []
