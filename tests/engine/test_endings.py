"""Whoever ends connections one after the other is cheap: what would be told nobody is counted, and not even made."""

import pytest

from guarded import driven
from loopback import connect
from sockguard._core.decide import Reason
from sockguard._engine import announcer
from sockguard._engine.guard import Guard
from sockguard._engine.telling import Teller, TellersCounter
from sockguard._engine.terms import CommonTerms, Terms


class Output:
    """Takes all it is given."""

    def __init__(self):
        self.events = []

    def wants(self, _event):
        return True

    def emit(self, event):
        self.events.append(event)

    def close(self):
        pass


def end(guard, sock, terms, reason=Reason.FAILED, step="closed") -> None:
    """Ends a connection as a wrapper does."""
    ending = guard.endings.of(sock, terms, reason)
    ending.tell(ending.verdict(), step)


@pytest.fixture
def both():
    """A guard whose events go through a teller, as those of the process do, and that."""
    output = Output()
    teller = Teller([output])
    with driven() as d:
        guard = Guard(d.guard.policy, teller.tell, counter=TellersCounter(teller))
        yield guard, teller, output
        guard.stop()
    teller.close(20.0)


def test_what_would_be_told_nobody_is_counted_and_not_made(both, monkeypatch):
    """One is told, the next is withheld, and all that follow are told by their number."""
    guard, teller, output = both
    made = []
    make = announcer.make_event
    monkeypatch.setattr(announcer, "make_event", lambda *args, **fields: made.append(1) or make(*args, **fields))
    for _ in range(50):
        with connect() as c:
            terms = Terms(None)
            guard.adopt(c.server, c.server, True, c.listener, terms)
            end(guard, c.server, terms)
    assert len(made) == 2
    teller.close(20.0)
    assert [(event.level, event.fields.get("suppressed")) for event in output.events] == [("info", None), ("info", 48)]


def test_a_listener_is_told_of_each(both):
    """What the log is spared is told whoever listens."""
    guard, teller, _ = both
    heard = []
    teller.add_listener(heard.append)
    for _ in range(5):
        with connect() as c:
            end(guard, c.server, Terms(None))
    assert teller.flush(5) and len(heard) == 5


def test_information_leaves_the_first_warning_of_a_site_what_it_is(both):
    """However many of the one kind were told before."""
    guard, teller, output = both
    with connect() as first, connect() as second, connect() as third:
        for c, reason in ((first, Reason.FAILED), (second, Reason.LEFT_OPEN), (third, Reason.CLOSE_STALLED)):
            terms = Terms(None)
            guard.adopt(c.server, c.server, True, guard, terms)
            end(guard, c.server, terms, reason)
    assert teller.flush(5)
    assert [event.level for event in output.events] == ["info", "info", "warning"]


def test_of_one_connection_one_end_is_told():
    """Whoever is first, however many records there are of it."""
    with driven() as d, connect() as c:
        terms = Terms(None)
        record = d.adopt(c.server, terms=terms)
        end(d.guard, c.server, terms)
        end(d.guard, c.server, terms)
        assert not record.claim() and not terms.claim()
        assert len(d.told("connection_closed")) == 1


def test_each_of_those_that_share_their_terms_is_told():
    """As the connections of one selector do: its terms say nothing of a single one."""
    terms = CommonTerms(None)
    with driven() as d, connect() as first, connect() as second:
        for c in (first, second):
            d.adopt(c.server, terms=terms)
            end(d.guard, c.server, None)
            end(d.guard, c.server, None)
        assert len(d.told("connection_closed")) == 2


def test_of_what_is_closed_and_unknown_nothing_is_told():
    """There is nothing to say; of what the guard knows, there is."""
    with driven() as d, connect() as c:
        with connect() as other:
            pass
        end(d.guard, other.server, Terms(None))
        assert d.events == []
        terms = Terms(None)
        record = d.adopt(c.server, terms=terms)
        fd = record.fd
        c.server.close()
        end(d.guard, c.server, terms)
        assert [event.fields["fd"] for event in d.told("connection_closed")] == [fd]
