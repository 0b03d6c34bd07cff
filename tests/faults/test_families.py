"""IPv6, and IPv4 that comes in through an IPv6 listener."""

import contextlib
import socket
from collections.abc import Iterator

import pytest

from children import Child, start_child
from commands import only_leak
from netstat import CLOSE_WAIT, wait_for


def has_ipv6() -> bool:
    with contextlib.suppress(OSError), socket.create_server(("::1", 0), family=socket.AF_INET6):
        return True
    return False


pytestmark = [
    pytest.mark.slow,
    pytest.mark.one_python,
    pytest.mark.skipif(not has_ipv6(), reason="no IPv6 here: nothing of it was tested"),
]


@contextlib.contextmanager
def ipv6_listener(host: str, *, dual: bool) -> Iterator[tuple[Child, int]]:
    with start_child() as child:
        words = f"family=socket.AF_INET6, dualstack_ipv6={dual}"
        child.do(f"listener = socket.create_server(({host!r}, 0), {words})")
        yield child, int(child.ask("listener.getsockname()[1]"))


CASES = [("::1", False, "::1", "[::1]"), ("::", True, "::1", "[::1]"), ("::", True, "127.0.0.1", "[::ffff:127.0.0.1]")]


@pytest.mark.parametrize(("bound", "dual", "host", "shown"), CASES)
def test_leak_of_an_accepted_connection(bound, dual, host, shown):
    """Addresses of IPv6 are in brackets, and an IPv4 peer of a dual-stack listener keeps its mapped address."""
    with ipv6_listener(bound, dual=dual) as (child, port):
        with socket.create_connection((host, port)) as client:
            client_port = client.getsockname()[1]
            child.do("server, _ = listener.accept()")
        wait_for(port, state=CLOSE_WAIT, inode=True)
        leak = only_leak(child.pid)
    assert (leak["local"], leak["remote"]) == (f"{shown}:{port}", f"{shown}:{client_port}")
    assert (leak["cause"], leak["side"], leak["pid"]) == ("eof_unread", "server", child.pid)


@pytest.mark.parametrize(("bound", "dual", "host", "shown"), CASES)
def test_leak_in_the_accept_queue(bound, dual, host, shown):
    """What waits at an IPv6 listener is attributed to it, a mapped address to the wildcard as well."""
    with ipv6_listener(bound, dual=dual) as (child, port):
        with socket.create_connection((host, port)):
            pass
        wait_for(port, state=CLOSE_WAIT)
        leak = only_leak(child.pid)
    assert (leak["local"], leak["cause"], leak["pid"]) == (f"{shown}:{port}", "not_accepted", child.pid)


def test_stale_client_of_ipv6():
    """A client's connection over IPv6 is told from a server's."""
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as listener, start_child() as child:
        child.do(f"client = socket.create_connection(('::1', {listener.getsockname()[1]}))")
        server, (_, port, *_) = listener.accept()
        server.close()
        wait_for(port, state=CLOSE_WAIT)
        leak = only_leak(child.pid)
    assert (leak["cause"], leak["side"], leak["local"]) == ("stale_client", "client", f"[::1]:{port}")
