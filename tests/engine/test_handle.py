"""What a program sees and says of a connection that it guards explicitly."""

import contextlib
import time

import pytest

import sockguard
from guarded import driven
from loopback import connect, state_of, vanished_peer
from sockguard._core.policy import Policy
from sockguard._engine.handle import GuardedConnection
from sockguard._engine.terms import Terms
from waiting import eventually

NEVER = float("nan")


@contextlib.contextmanager
def handled(connection, **fields):
    """Guards the server's end by hand, and gives the guard and the handle."""
    with driven(**fields) as d:
        d.terms = Terms(None)
        d.adopt(connection.server, terms=d.terms)
        yield d, GuardedConnection(lambda: connection.server, d.terms, d.guard)


def test_counts_are_those_of_the_kernel():
    """Bytes both ways, read or not, and the instant of the last one; nothing was counted on the way."""
    with connect() as c, handled(c) as (_, connection):
        assert (connection.bytes_received, connection.bytes_sent) == (0, 0)
        before = time.monotonic()
        c.client.sendall(b"question")
        eventually(lambda: connection.bytes_received == 8)
        c.server.sendall(b"an answer")
        assert connection.bytes_sent == 9
        assert before - 0.1 <= connection.last_update <= time.monotonic()
        assert connection.facts.unread == 8


def test_the_fin_is_not_counted():
    """The kernel counts it as a byte; a program would wonder."""
    with vanished_peer(sent=b"12345") as c, handled(c) as (_, connection):
        assert connection.bytes_received == 5


def test_states_are_named():
    """Open, half closed, over, and closed by us."""
    with connect() as c, handled(c) as (_, connection):
        assert (connection.state, repr(connection)) == ("open", "<sockguard connection, open>")
        c.client.shutdown(1)
        eventually(lambda: connection.state == "half_closed")
        c.client.setsockopt(1, 13, b"\1\0\0\0\0\0\0\0")  # SO_LINGER 0
        c.client.close()
        eventually(lambda: connection.state == "over")
        c.server.close()
        assert connection.state == "closed"


def test_of_a_closed_connection_nothing_is_known():
    """And asking is no error."""
    with connect() as c, handled(c) as (_, connection):
        c.server.close()
        known = (connection.facts, connection.last_update, connection.bytes_received, connection.bytes_sent)
        assert known == (None, None, None, None)


def test_the_policy_is_its_own_or_the_guards():
    """As the terms say."""
    with connect() as c, handled(c, idle_timeout=7) as (d, connection):
        assert connection.policy is d.guard.policy
        own = Policy(idle_timeout=3)
        assert GuardedConnection(lambda: c.server, Terms(own), d.guard).policy is own


def test_it_says_why_the_guard_has_ended_it():
    """None before that."""
    with connect() as c, handled(c, idle_timeout=2) as (d, connection):
        assert connection.ended_by is None
        for _ in range(5):
            d.tick(1)
        assert "idle_timeout=2" in connection.ended_by


def test_a_deadline_is_not_renewed_by_bytes():
    """The request is ended though it trickles in; the block that fails for that raises TimeoutError with the reason."""
    with connect() as c, handled(c) as (d, connection):

        def request():
            with connection.deadline(2) as deadline:
                d.now = d.terms.demand.since
                for _ in range(2):
                    c.client.send(b"x")
                    assert c.server.recv(1) == b"x"
                    d.tick(0.75)
                    assert not deadline.expired
                d.tick(1)
                assert deadline.expired
                raise ConnectionAbortedError("as a protocol would")

        with pytest.raises(TimeoutError, match=r"longer than its deadline of 2 s") as caught:
            request()
        assert isinstance(caught.value.__cause__, ConnectionAbortedError)
        assert d.closed() == [("deadline", "shut_down")]


def test_a_deadline_that_is_kept_leaves_no_trace():
    """Neither does one whose block fails of something else."""
    with connect() as c, handled(c) as (d, connection):
        with connection.deadline(1):
            pass
        with pytest.raises(ConnectionError, match="of its own"), connection.deadline(1):
            raise ConnectionError("of its own")
        d.now = time.monotonic() + 5
        d.tick()
        assert (d.closed(), state_of(c.server)) == ([], 1)


def test_of_two_deadlines_the_sooner_holds():
    """An inner one that is later changes nothing, and after an inner one the outer one holds again."""
    with connect() as c, handled(c) as (d, connection), connection.deadline(10):
        with connection.deadline(60):
            assert d.terms.demand.limit == 10
        with connection.deadline(5):
            assert d.terms.demand.limit == 5
        assert d.terms.demand.limit == 10
        d.now = time.monotonic() + 11
        d.tick()
        assert d.closed() == [("deadline", "shut_down")]


def test_deadlines_that_overlap_hold_each_for_itself():
    """Two tasks can share a connection: what one of them has kept is over, and that of the other one is not."""
    with connect() as c, handled(c) as (d, connection):
        first, second = connection.deadline(10), connection.deadline(5)
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        assert d.terms.demand.limit == 5
        second.__exit__(None, None, None)
        d.now = time.monotonic() + 60
        d.tick()
        assert (d.terms.demand, d.closed()) == (None, [])
        with connection.deadline(5):
            d.now = time.monotonic() + 6
            d.tick()
            assert d.closed() == [("deadline", "shut_down")]


def missed(d, deadline) -> bool:
    """Tells whether a block that fails for the end of its connection is told that this was its deadline."""
    deadline.__enter__()
    while not d.closed():
        d.tick(1)
    error = ConnectionAbortedError("as a protocol would")
    try:
        deadline.__exit__(type(error), error, None)
    except TimeoutError:
        return True
    return False


def test_of_two_deadlines_the_one_that_was_missed_is_blamed():
    """Whichever stands inside; the other one has not expired, and lets the error through."""
    with connect() as c, handled(c) as (d, connection), connection.deadline(60) as outer:
        inner = connection.deadline(5)
        assert (missed(d, inner), inner.expired, outer.expired) == (True, True, False)
    with connect() as c, handled(c) as (d, connection):
        outer, inner = connection.deadline(5), connection.deadline(60)
        outer.__enter__()
        assert missed(d, inner) is False
        with pytest.raises(TimeoutError, match="deadline of 5 s"):
            outer.__exit__(ConnectionAbortedError, ConnectionAbortedError("as the inner block did"), None)
        assert (outer.expired, inner.expired) == (True, False)


def test_a_later_deadline_is_not_blamed_for_an_end_before_it():
    """Neither by its message nor by its word, also if it is entered again."""
    with connect() as c, handled(c) as (d, connection):
        first, second = connection.deadline(5), connection.deadline(5)
        assert (first.expired, second.expired) == (False, False)
        assert missed(d, first) is True
        assert (missed(d, second), missed(d, first)) == (False, False)
        assert (second.expired, first.expired) == (False, False)


@pytest.mark.parametrize("nonsense", [0, -1, NEVER, float("inf"), None, "5"])
def test_a_deadline_that_makes_no_sense_is_refused(nonsense):
    """By its value, with what to give instead."""
    with (
        connect() as c,
        handled(c) as (_, connection),
        pytest.raises(sockguard.UsageError, match=r"deadline\(.*give seconds"),
    ):
        connection.deadline(nonsense)


def test_a_connection_that_is_expected_open_is_never_idle():
    """Its reason is kept."""
    with connect() as c, handled(c, idle_timeout=2) as (d, connection):
        connection.expect_open("a subscription")
        for _ in range(5):
            d.tick(1)
        assert (d.closed(), d.terms.expected) == ([], "a subscription")


def test_sending_without_a_heartbeat_is_nothing():
    """And may be nested."""
    with connect() as c, handled(c) as (_, connection), connection.sending(), connection.sending():
        assert connection.rtt is None
