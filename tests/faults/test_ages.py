"""How long a connection has been leaked: the age is close to the truth where it says so, and never too high."""

import socket
import time
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from children import Child, start_child
from commands import only_leak, report, run
from netstat import CLOSE_WAIT, wait_for
from waiting import eventually

pytestmark = [pytest.mark.slow, pytest.mark.one_python]

SLACK = 1.0
"""Seconds that the kernel's clock ticks and a busy machine may take; the spans measured are longer."""


class Pair(NamedTuple):
    """A server in a child that keeps its connection, and our client of it."""

    child: Child
    port: int
    client: socket.socket

    def hang_up(self) -> tuple[float, float]:
        """Closes our end; gives the times before and after, between which the FIN went."""
        before = time.monotonic()
        self.client.close()
        wait_for(self.port, state=CLOSE_WAIT)
        return before, time.monotonic()


@pytest.fixture
def pair() -> Iterator[Pair]:
    with start_child() as child:
        child.do("listener = socket.create_server(('127.0.0.1', 0))")
        port = int(child.ask("listener.getsockname()[1]"))
        with socket.create_connection(("127.0.0.1", port)) as client:
            child.do("server, _ = listener.accept()")
            yield Pair(child, port, client)


def leak_older_than(seconds: float, pid: int) -> dict:
    return eventually(lambda: report(pid, min_age=seconds)["leaks"], timeout=20)[0]


def test_exact_if_nothing_was_sent(pair):
    """Of a connection on which we sent nothing, the age is that of the FIN, to the tick."""
    pair.client.sendall(b"hello")
    before, after = pair.hang_up()
    asked_at = time.monotonic()
    leak = leak_older_than(2.0, pair.child.pid)
    told_at = time.monotonic()
    assert leak["age_is"] == "exact"
    assert max(2.0, asked_at - after - SLACK) <= leak["age_seconds"] <= told_at - before + SLACK


def test_at_least_if_keepalive_probes_are_on(pair):
    """Where the peer may have answered probes since its FIN, the age is a lower bound, and says so."""
    pair.child.do("server.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)")
    before, _ = pair.hang_up()
    leak = only_leak(pair.child.pid)
    assert leak["age_is"] == "at_least"
    assert leak["age_seconds"] <= time.monotonic() - before + SLACK


def test_at_least_if_an_answer_went_out_after_the_fin(pair):
    """A peer that acknowledged our data after its FIN was heard of later than that: a lower bound."""
    pair.client.shutdown(socket.SHUT_WR)
    wait_for(pair.port, state=CLOSE_WAIT)
    pair.child.do("server.sendall(b'late answer')")
    assert pair.client.recv(100) == b"late answer"
    wait_for(pair.port, state=CLOSE_WAIT, send_queue=0)
    assert only_leak(pair.child.pid)["age_is"] == "at_least"


def test_about_if_the_conversation_was_long_before(pair):
    """A greeting long before the FIN was acknowledged long before: the last packet is the FIN, in all likelihood."""
    idle_since = time.monotonic()
    pair.child.do("server.sendall(b'welcome')")
    assert pair.client.recv(100) == b"welcome"
    milliseconds = "int.from_bytes(server.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)[44:48], sys.byteorder)"
    eventually(lambda: int(pair.child.ask(milliseconds)) > 3000, timeout=20)
    before, _ = pair.hang_up()
    leak = only_leak(pair.child.pid)
    assert (leak["age_is"], before - idle_since > 2 * SLACK) == ("about", True)
    assert leak["age_seconds"] <= time.monotonic() - before + SLACK


def test_counts_from_the_fin_not_from_the_last_byte(pair):
    """A connection that was idle for long before the FIN came is as young as its FIN."""
    idle_since = time.monotonic()
    milliseconds = "int.from_bytes(server.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)[56:60], sys.byteorder)"
    eventually(lambda: int(pair.child.ask(milliseconds)) > 3000, timeout=20)
    before, _ = pair.hang_up()
    leak = only_leak(pair.child.pid)
    assert (leak["age_is"], before - idle_since > 2 * SLACK) == ("exact", True)
    assert leak["age_seconds"] <= time.monotonic() - before + SLACK


def test_young_leak_is_not_listed(pair):
    """What is younger than --min-age, by default 10 s, is no leak yet, and the exit status is 0."""
    pair.hang_up()
    outcome = run("report", "--pid", pair.child.pid)
    assert (outcome.status, outcome.err) == (0, "")
    assert "1 connection in CLOSE_WAIT" in outcome.out
    assert report(pair.child.pid, min_age=3600)["leaks"] == []
    assert len(report(pair.child.pid, min_age=0)["leaks"]) == 1
