"""A policy of its own for one connection, and what its program demands of it; with a clock that the test moves."""

import pytest

import sockguard
from guarded import driven
from loopback import connect, state_of, vanished_peer
from sockguard._core.connection import Demand, Reason
from sockguard._core.policy import Heartbeat, Keepalive, Policy
from sockguard._engine.terms import Demands, Terms, check_policy, make_terms

ESTABLISHED, CLOSE = 1, 7


def test_a_connection_has_a_policy_of_its_own():
    """Of two that stand still, the one with the shorter time-out is ended, and the other one is not."""
    with connect() as ours, connect() as other, driven(idle_timeout=60) as d:
        d.adopt(ours.server, terms=Terms(Policy(idle_timeout=2)))
        d.adopt(other.server)
        for _ in range(5):
            d.tick(1)
        assert d.closed(ours.server) == [("idle", "shut_down")]
        assert d.closed(other.server) == []
        assert state_of(other.server) == ESTABLISHED


def test_an_own_policy_that_observes_touches_nothing():
    """The guard enforces for all others, and for this one it only says what it would have done."""
    with connect() as c, driven(idle_timeout=60) as d:
        d.adopt(c.server, terms=Terms(Policy(idle_timeout=2, mode="observe")))
        for _ in range(5):
            d.tick(1)
        assert d.closed() == [("idle", "shut_down")]
        assert d.told("connection_closed")[0].fields["mode"] == "observe"
        assert state_of(c.server) == ESTABLISHED


def test_terms_without_a_policy_follow_the_guard():
    """What the guard wants of all holds for them, also when that changes."""
    with connect() as c, driven(idle_timeout=60) as d:
        terms = Terms(None)
        d.adopt(c.server, terms=terms)
        d.tick()
        d.guard.change_policy(Policy(idle_timeout=2))
        for _ in range(5):
            d.tick(1)
        assert d.closed() == [("idle", "shut_down")]
        assert terms.verdict is not None
        assert terms.verdict.reason is Reason.IDLE


def test_terms_take_the_place_of_none_when_announced_again():
    """What accept() has announced already, a wrapper announces once more, with its policy; and only that one holds."""
    with connect() as c, driven(idle_timeout=2) as d:
        d.adopt(c.server)
        d.tick()
        d.adopt(c.server, terms=Terms(Policy(idle_timeout=600)))
        for _ in range(5):
            d.tick(1)
        assert d.closed() == []
        assert len(d.guard.registry.by_fd) == 1


def test_keepalive_is_that_of_the_connection():
    """Its own policy says how its peer is probed."""
    with connect() as c, driven() as d:
        d.adopt(c.server, terms=Terms(Policy(keepalive=Keepalive(idle=7, interval=3, count=2))))
        d.tick()
        assert c.server.getsockopt(6, 4) == 7  # TCP_KEEPIDLE


def test_a_demand_ends_the_connection_at_its_instant():
    """Bytes that move meanwhile do not put it off."""
    with connect() as c, driven() as d:
        terms = Terms(None)
        d.adopt(c.server, terms=terms)
        d.tick()
        d.guard.demands.add(terms, Demand(Reason.DEADLINE, d.now, 3.0))
        for _ in range(2):
            c.client.send(b"x")
            c.server.recv(1)
            d.tick(1)
        assert d.closed() == []
        d.tick(1.25)
        assert d.closed() == [("deadline", "shut_down")]
        assert state_of(c.server) != ESTABLISHED


def test_a_demand_that_is_taken_back_ends_nothing():
    """A request that was answered in time has no deadline any more."""
    with connect() as c, driven() as d:
        terms = Terms(None)
        d.adopt(c.server, terms=terms)
        d.guard.demands.add(terms, Demand(Reason.DEADLINE, d.now, 1.0))
        d.tick(0.5)
        terms.take_back(terms.demand)
        d.tick(5)
        assert (d.closed(), d.guard.demands.pop_due(d.now)) == ([], [])


def test_a_lost_heartbeat_is_told_by_name():
    """The event says after how long, and by which setting."""
    with connect() as c, driven() as d:
        terms = Terms(Policy(heartbeat=Heartbeat(b"?", 1, 2)))
        d.adopt(c.server, terms=terms)
        d.guard.demands.add(terms, Demand(Reason.HEARTBEAT, d.now, 2.0))
        d.tick(2.25)
        [lost] = d.told("heartbeat_lost")
        assert (lost.fields["limit"], lost.fields["fd"]) == (2.0, c.server.fileno())
        assert d.told("connection_closed")[0].fields["setting"] == "heartbeat.timeout"


def test_a_connection_that_is_expected_to_live_long_is_no_leak():
    """It is not told as one; yet what has hung up is ended as ever."""
    with vanished_peer() as c, driven(leak_after=1, fin_timeout=4) as d:
        terms = Terms(None)
        terms.expected = "a subscription"
        d.adopt(c.server, terms=terms)
        for _ in range(3):
            d.tick(1)
        assert d.told("leak_detected") == []
        for _ in range(3):
            d.tick(1)
        assert d.closed() == [("half_closed", "shut_down")]


def test_who_wraps_is_told_when_it_is_over():
    """After the shutdown, with the reason in words, at each look from then on: it may release the descriptor."""
    reasons = []
    with connect() as c, driven() as d:

        class Wrapper(type(c.server)):
            def let_go(self, why):
                reasons.append((why, state_of(self)))

        with Wrapper(fileno=c.server.detach()) as wrapper:
            d.adopt(wrapper, terms=Terms(Policy(idle_timeout=2)))
            for _ in range(5):
                d.tick(1)
    [why] = {why for why, _ in reasons}
    assert why.startswith("nothing had moved either way for ")
    assert why.endswith("(idle_timeout=2)")
    assert ESTABLISHED not in {state for _, state in reasons}


@pytest.mark.parametrize("nonsense", [{}, {"idle_timeout": 3}, "enforce", 30, Policy])
def test_what_is_no_policy_is_refused(nonsense):
    """By its value, and with what to give instead."""
    with pytest.raises(sockguard.UsageError, match=r"policy=.* give one, as in policy=sockguard\.Policy\("):
        check_policy(nonsense)


def test_terms_have_what_their_connection_needs():
    """Own stamps where the kernel keeps no books, and a heart where a heartbeat is wanted."""
    beating = Policy(heartbeat=Heartbeat(b"?", 1, 2))
    with connect() as c:
        plain = make_terms(None, c.server, Policy())
        assert (plain.books, plain.heart, plain.gate) == (None, None, None)
        assert make_terms(None, c.server, beating).heart.heartbeat is beating.heartbeat
        assert make_terms(Policy(), c.server, beating).heart is None


def test_a_demand_waits_until_the_registry_knows_the_connection():
    """One that is due before the first tick is not lost."""
    demands, terms = Demands(), Terms(None)
    demands.add(terms, Demand(Reason.DEADLINE, 0.0, 1.0))
    assert demands.pop_due(5.0) == []
    terms.fd = 9
    assert demands.pop_due(5.0) == [9]
    terms.take_back(terms.demand)
    assert demands.pop_due(5.0) == []
