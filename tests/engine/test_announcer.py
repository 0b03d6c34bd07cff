"""What is said of what the guard does: with addresses, numbers, the line that opened it, and once."""

import errno
import os

import pytest

from guarded import driven
from loopback import connect, vanished_peer
from sockguard._core.causes import Cause
from sockguard._core.decide import Action, Reason, Verdict
from sockguard._core.facts import Address, Holder
from sockguard._core.policy import Policy
from sockguard._engine import announcer as module
from sockguard._engine.announcer import Announcer
from sockguard._engine.pressure import DescriptorWatch, StuckQueue
from sockguard._engine.record import LoopRef, stranger
from sockguard._engine.stalls import Stall
from sockguard._kernel.inet_diag import open_diag, read_sockets
from sockguard._kernel.one_socket import read_cookie
from sockguard.errors import KernelUnavailable


def name_of(address) -> str:
    """Writes an address as events do."""
    return "{}:{}".format(*address[:2])


class Told:
    """An announcer, and what it has said at an instant."""

    def __init__(self, **policy):
        self.events = []
        self.announcer = Announcer(Policy(**policy), lambda *told: self.events.append(told), lambda _: "a handler")
        self.announcer.begin(7.0)

    @property
    def only(self):
        [(event, now)] = self.events
        assert now == 7.0
        return event


@pytest.fixture
def told():
    return Told()


# --- Connections ---


def test_a_leak_is_told_with_all_that_helps():
    """Cause, age, peer, state, unread bytes, where it was opened, who works on it, and what to do."""
    with vanished_peer(sent=b"hello") as c, driven(leak_after=2, fin_timeout=None) as d:
        peer = c.server.getpeername()
        record = d.adopt(c.server)
        for _ in range(3):
            d.tick(2)
        [event] = d.told("leak_detected")
        fields = event.fields
        assert (fields["local"], fields["remote"]) == (name_of(c.server.getsockname()), name_of(peer))
        assert (fields["fd"], fields["cookie"], fields["pid"]) == (
            c.server.fileno(),
            read_cookie(c.server),
            os.getpid(),
        )
        assert (fields["cause"], fields["state"], fields["unread"]) == ("unread", "CLOSE_WAIT", 5)
        assert (fields["side"], fields["remedy"]) == ("server", Cause.UNREAD.remedy)
        assert fields["created_at"] == record.site.frames()
        assert fields["age_seconds"] >= 0
        assert event.site is record.site


@pytest.mark.parametrize("error", [OSError(errno.EMFILE, "no"), KernelUnavailable("netlink", "refused", "Allow it.")])
def test_a_leak_is_told_also_if_the_kernel_cannot_be_asked(monkeypatch, error):
    """Without a descriptor to ask with: state and unread bytes are known all the same."""

    def refuse():
        raise error

    monkeypatch.setattr(module, "look_at_self", refuse)
    with vanished_peer(sent=b"hello") as c, driven(leak_after=2, fin_timeout=None) as d:
        d.adopt(c.server)
        for _ in range(3):
            d.tick(2)
        [event] = d.told("leak_detected")
        assert (event.fields["cause"], event.fields["state"], event.fields["unread"]) == (None, "CLOSE_WAIT", 5)


def test_the_kernel_is_asked_once_a_tick(monkeypatch):
    """However many leaks there are; and anew at the next tick."""
    asked = []
    original = module.look_at_self
    monkeypatch.setattr(module, "look_at_self", lambda: asked.append(1) or original())
    with driven(leak_after=2, fin_timeout=None) as d, vanished_peer() as first, vanished_peer() as second:
        for c in (first, second):
            d.adopt(c.server)
        d.tick()
        d.tick(2.5)
        with vanished_peer() as third:
            d.adopt(third.server)
            d.tick()
            d.tick(2.5)
        assert (len(d.told("leak_detected")), len(asked)) == (3, 2)


def test_an_end_is_told_once_with_the_numbers_that_led_to_it():
    """Which clause, its limit, and for how long the connection had stood still."""
    with vanished_peer(sent=b"hello") as c, driven(fin_timeout=5, leak_after=None) as d:
        d.adopt(c.server)
        for _ in range(20):
            d.tick(1)
        [event] = d.told("connection_closed")
        fields = event.fields
        assert (fields["reason"], fields["setting"], fields["limit"]) == ("half_closed", "fin_timeout", 5)
        assert 5 <= fields["seconds"] < 7
        assert (fields["unread"], fields["step"], fields["mode"]) == (5, "fin_sent", "enforce")


def test_nothing_is_said_of_what_was_never_looked_at(told):
    """A record without a history has nothing to tell."""
    record = stranger(5, 1, 0.0, is_server=True)
    told.announcer.peer_closed(record)
    told.announcer.cleared(record, "closed")
    told.announcer.step(record, Verdict(Action.SHUT_DOWN, Reason.IDLE))
    assert told.events == []


def test_a_leak_of_what_was_never_looked_at_has_no_state(told):
    """It cannot be; if it were, the event would be told with what is known."""
    told.announcer.leak(stranger(5, -1, 0.0, is_server=False))
    assert (told.only.fields["side"], told.only.fields["state"]) == ("client", None)


def test_a_leak_is_taken_back_under_the_names_that_it_was_told_by():
    """After its end the kernel knows neither address; what was told is told again, and how long it took."""
    with vanished_peer() as c, driven(leak_after=2, fin_timeout=None) as d:
        record = d.adopt(c.server)
        for _ in range(2):
            d.tick(2.5)
        [leak] = d.told("leak_detected")
        d.guard._sweep._announcer.begin(d.now + 4)  # noqa: SLF001
        d.guard._sweep._announcer.cleared(record, "closed")  # noqa: SLF001
        [cleared] = d.told("leak_cleared")
        same = ("local", "remote", "fd", "cookie", "side", "created_at", "pid")
        assert {name: cleared.fields[name] for name in same} == {name: leak.fields[name] for name in same}
        assert (cleared.fields["after_seconds"], cleared.fields["how"]) == (pytest.approx(4), "closed")


# --- Connections that children keep ---


def row_of(sock):
    """What the kernel lists of it."""
    with open_diag() as diag:
        return next(row for row in read_sockets(diag, [8], with_info=True) if row.cookie == read_cookie(sock))


HOLDERS = [Holder(7, 4, "child"), Holder(8, 5, "other")]


def test_what_children_keep_is_told_as_shared(told):
    """With every process that holds it, and by which descriptor."""
    with vanished_peer(sent=b"hello") as c:
        told.announcer.ghost_leak(row_of(c.server), HOLDERS)
        fields = told.only.fields
        assert (fields["cause"], fields["unread"], fields["state"]) == ("shared", 5, "CLOSE_WAIT")
        assert fields["holders"] == ("process 7 (fd 4)", "process 8 (fd 5)")


@pytest.mark.parametrize("mode", ["enforce", "observe"])
def test_the_end_of_what_children_keep_is_told(mode):
    """Whose it was, and by which clause; in `observe` mode, that it would have been."""
    told = Told(mode=mode)
    with vanished_peer() as c:
        verdict = Verdict(Action.SHUT_DOWN, Reason.HALF_CLOSED, "fin_timeout", 60.0, 61.0)
        told.announcer.ghost_end(row_of(c.server), verdict, HOLDERS)
        fields = told.only.fields
        assert fields["owner"] == "closed here, kept by process 7 (fd 4), process 8 (fd 5)"
        assert (fields["step"], fields["mode"], fields["seconds"]) == ("shut_down", mode, 61)


# --- The process ---


def test_a_stuck_queue_is_told_with_the_descriptors(told):
    """That none is left is the likeliest reason."""
    descriptors = DescriptorWatch()
    descriptors.check()
    told.announcer.stuck(StuckQueue(Address("127.0.0.1", 80), 6, 8, 5, 12.0), descriptors)
    fields = told.only.fields
    assert (fields["local"], fields["queued"], fields["queued_close_wait"]) == ("127.0.0.1:80", 6, 5)
    assert fields["fd_used"] == descriptors.used > 0


def test_a_limit_that_is_near_and_a_stalled_loop_are_told(told):
    """With their numbers, and the stack."""
    told.announcer.limit_near(DescriptorWatch(), 3)
    told.announcer.stalled([Stall(LoopRef(told, 1), "MainThread", 2.5, ("app.py:1 in slow", "app.py:2 in main"))])
    [(near, _), (stalled, _)] = told.events
    assert near.fields["n_dead"] == 3
    assert (stalled.fields["seconds"], stalled.fields["where"][0]) == (2.5, "app.py:1 in slow")
    assert stalled.site == ("app.py:1 in slow",)


def test_events_of_healthy_connections_are_none():
    """Both ends open: nothing is said, however long it takes."""
    with connect() as c, driven(leak_after=1) as d:
        d.adopt(c.server)
        for _ in range(20):
            d.tick(60)
        assert d.events == []
