"""Established connections that nobody announced are found; those of others are not."""

import math

import pytest

from children import start_child
from guarded import driven
from loopback import connect
from sockguard._engine import established
from sockguard._engine.established import EstablishedScan
from sockguard._engine.registry import Registry


@pytest.fixture(autouse=True)
def _on_a_quiet_host(monkeypatch):
    """However many sockets other tests have open meanwhile, a scan is due after two seconds."""
    monkeypatch.setattr(established, "PER_SOCKET", 0.0)


def test_an_unannounced_connection_is_found_once():
    """Both ends of a connection are this process's own: both are found, and not again once they are known."""
    with connect() as c:
        registry = Registry()
        scan = EstablishedScan(registry)
        found = {record.fd: record for record in scan.scan_if_due(1.0)}
        assert {c.client.fileno(), c.server.fileno()} <= found.keys()
        assert [found[s.fileno()].is_server for s in (c.client, c.server)] == [False, True]
        registry.by_fd.update(found)
        assert scan.scan_if_due(math.inf) == []


def test_it_is_not_asked_for_at_each_tick():
    """Within two seconds there is no second scan."""
    with connect():
        scan = EstablishedScan(Registry())
        assert scan.scan_if_due(1.0)
        assert scan.scan_if_due(2.0) == []


def test_what_was_just_opened_counts_as_announced():
    """A connection that was adopted since the tick began is not taken for a stranger."""
    with connect() as c, driven(idle_timeout=60) as d:
        d.guard.adopt(c.server, c.server, True)
        scan = EstablishedScan(d.guard.registry)
        assert c.server.fileno() not in {record.fd for record in scan.scan_if_due(d.now)}


def test_connections_of_other_processes_are_left_alone():
    """A connection between two sockets of a child is in the same list, and not ours."""
    before = {record.fd for record in EstablishedScan(Registry()).scan_if_due(1.0)}
    with start_child() as child:
        child.do("l = socket.create_server(('127.0.0.1', 0))")
        child.do("c = socket.create_connection(l.getsockname()); s = l.accept()[0]")
        assert child.ask("s.fileno() > 0") == "True"
        assert {record.fd for record in EstablishedScan(Registry()).scan_if_due(1.0)} == before
