"""Established connections that nobody announced are found; those of others are not."""

import math

import pytest

from children import start_child
from guarded import driven
from loopback import connect
from sockguard import Keepalive, Policy
from sockguard._engine import established
from sockguard._engine.established import EstablishedScan
from sockguard._engine.registry import Registry

LIMITED = Policy(idle_timeout=60)


@pytest.fixture(autouse=True)
def _on_a_quiet_host(monkeypatch):
    """However many sockets other tests have open meanwhile, a scan is due after two seconds."""
    monkeypatch.setattr(established, "PER_SOCKET", 0.0)


def test_an_unannounced_connection_is_found_once():
    """Both ends of a connection are this process's own: both are found, and not again once they are known."""
    with connect() as c:
        registry = Registry()
        scan = EstablishedScan(registry, LIMITED)
        found = {record.fd: record for record in scan.scan_if_due(1.0)}
        assert {c.client.fileno(), c.server.fileno()} <= found.keys()
        assert [found[s.fileno()].is_server for s in (c.client, c.server)] == [False, True]
        registry.by_fd.update(found)
        assert scan.scan_if_due(math.inf) == []


def test_it_is_not_asked_for_at_each_tick():
    """Within two seconds there is no second scan."""
    with connect():
        scan = EstablishedScan(Registry(), LIMITED)
        assert scan.scan_if_due(1.0)
        assert scan.scan_if_due(2.0) == []


@pytest.mark.parametrize(
    ("policy", "seconds"),
    [
        (Policy(), 15),
        (Policy(keepalive=Keepalive(idle=2)), 2),
        (Policy(keepalive=Keepalive(idle=7200)), 60),
        (Policy(idle_timeout=60), 2),
    ],
)
def test_it_is_asked_for_as_often_as_the_policy_needs(policy, seconds):
    """Where it is for keepalive alone, a quarter of the time after which the kernel asks is soon enough."""
    with connect():
        scan = EstablishedScan(Registry(), policy)
        assert scan.scan_if_due(1.0)
        assert scan.scan_if_due(seconds + 0.75) == []
        assert scan.scan_if_due(seconds + 1.25)


@pytest.mark.parametrize("policy", [Policy(keepalive=None), Policy(mode="observe")])
def test_it_is_not_asked_for_where_nothing_would_be_done(policy):
    """Neither a limit nor keepalive."""
    with connect():
        assert EstablishedScan(Registry(), policy).scan_if_due(math.inf) == []


def test_what_was_just_opened_counts_as_announced():
    """A connection that was adopted since the tick began is not taken for a stranger."""
    with connect() as c, driven(idle_timeout=60) as d:
        d.guard.adopt(c.server, c.server, True)
        scan = EstablishedScan(d.guard.registry, LIMITED)
        assert c.server.fileno() not in {record.fd for record in scan.scan_if_due(d.now)}


def test_connections_of_other_processes_are_left_alone():
    """A connection between two sockets of a child is in the same list, and not ours."""
    before = {record.fd for record in EstablishedScan(Registry(), LIMITED).scan_if_due(1.0)}
    with start_child() as child:
        child.do("l = socket.create_server(('127.0.0.1', 0))")
        child.do("c = socket.create_connection(l.getsockname()); s = l.accept()[0]")
        assert child.ask("s.fileno() > 0") == "True"
        assert {record.fd for record in EstablishedScan(Registry(), LIMITED).scan_if_due(1.0)} == before
