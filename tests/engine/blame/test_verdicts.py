"""What is told of a socket that was left open: cause, place, holder; and nothing that is not known."""

import gc
import os
import socket

import pytest

from children import start_child
from loopback import inode_of, listen, vanished_peer
from sockguard._core.leaks import Cause
from sockguard._engine.blame import verdicts
from sockguard._engine.blame.births import Death, Moment
from sockguard._engine.blame.ledger import Ledger, Owner
from sockguard._engine.blame.verdicts import charge_deaths, charge_queued, charge_suspects, find_sick
from sockguard._kernel.own_sockets import sketch_socket
from waiting import eventually

KEPT = []


@pytest.fixture
def ledger():
    """Books in which a test is running."""
    made = Ledger()
    made.look()
    made.births.enter(Moment(Owner("the test"), "fix"))
    yield made
    made.shut()
    while KEPT:
        KEPT.pop().close()


def make(ledger, sock=None):
    """Opens a socket, as the wrapper of `socket.socket.__init__` tells of it."""
    sock = sock or socket.socket()
    ledger.births.born(sock, 2)
    return sock


def charged(ledger):
    """What the test is charged with, now that it is over."""
    ledger.births.moment.owner.is_over = True
    return [charge.leftover for charge in charge_suspects(ledger.due())]


def test_retained(ledger):
    """It is open and referred to: which, who opened it where, who holds it; the fixture, if one did."""
    KEPT.append(make(ledger))
    [found] = charged(ledger)
    assert (found.cause, found.protocol, found.state) == ("retained", "TCP", "UNCONNECTED")
    assert (found.fd, found.inode, found.pid) == (KEPT[0].fileno(), inode_of(KEPT[0]), os.getpid())
    assert (found.owner, found.opened_in, found.fixture) == ("the test", "", "fix")
    assert found.source == "KEPT.append(make(ledger))"
    assert found.created_by[0].endswith("test_verdicts.test_retained")
    assert found.held_by[0].startswith("list 'KEPT' of module ")
    assert 0 <= found.age_seconds < 5


def test_nothing_is_collected_for_the_innocent():
    """Without a suspect no garbage is collected: that takes 10 ms, and would end other people's objects."""
    before = gc.get_stats()[2]["collections"]
    assert charge_suspects([]) == []
    assert gc.get_stats()[2]["collections"] == before


@pytest.mark.filterwarnings("error")
@pytest.mark.allow_socket_leaks("what is judged here is a socket that was thrown away", count=1)
def test_garbage_is_unclosed(ledger):
    """What only the collector would have closed is told as thrown away; its ResourceWarning goes to nobody else."""
    gc.disable()
    try:
        cycle = [make(ledger)]
        cycle.append(cycle)
        del cycle
        [found] = charged(ledger)
    finally:
        gc.enable()
    assert (found.cause, found.held_by) == ("unclosed", ())


def test_what_is_closed_in_the_last_moment_is_no_leak(ledger):
    """By a thread, between the last look and the judgement; nor is the one that has got its number since."""
    sock = make(ledger)
    ledger.births.moment.owner.is_over = True
    [suspect] = ledger.due()
    sock.close()
    with listen() as other:
        assert other.fileno() == suspect.fd
        assert charge_suspects([suspect]) == []


@pytest.mark.allow_socket_leaks("what is judged here is a socket that was thrown away", count=1)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_what_the_collector_closes_in_the_last_moment_is_told(ledger, monkeypatch):
    """It runs whenever there is enough garbage, so also while the sick are asked for."""

    class Told(socket.socket):
        def __del__(self):  # as the wrapper of `socket.socket.__del__` tells of it
            ledger.births.thrown_away(self.fileno(), self)
            super().__del__()

    monkeypatch.setattr(verdicts, "find_sick", lambda: gc.collect() and [])
    with vanished_peer() as connection:
        cycle = [make(ledger, Told(fileno=os.dup(connection.server.fileno())))]
        inode = inode_of(cycle[0])
        connection.server.close()
        cycle.append(cycle)
        ledger.births.moment.owner.is_over = True
        suspects = [suspect for suspect in ledger.due() if suspect.birth.inode == inode]
        del cycle
        found = [charge.leftover.cause for charge in charge_suspects(ledger.tell(suspects))]
    assert (found, ledger.take_deaths()) == (["unclosed"], [])


def test_who_closes_it_in_the_last_moment_while_a_child_has_it_is_charged_later(ledger):
    """Then it is known that the child keeps it."""
    with socket.socket() as sock:
        make(ledger, sock)
        ledger.births.moment.owner.is_over = True
        with start_child(pass_fds=[sock.fileno()]) as child:
            [suspect] = ledger.due()
            sock.close()
            assert charge_suspects(ledger.tell([suspect])) == []
            [charge] = charge_suspects(ledger.due())
            assert (charge.leftover.cause, charge.leftover.pid) == ("kept_by_child", child.pid)


def test_opened_in_c(ledger):
    """Nothing is said of a place that nobody saw."""
    with socket.socket():
        [found] = charged(ledger)
    assert (found.created_at, found.created_by, found.source, found.source_at) == ((), (), "", "")


def test_peer_has_hung_up(ledger):
    """The cause is that of a report; the age is counted from when the peer was last heard of."""
    with vanished_peer(sent=b"unread") as connection:
        for sock in connection:
            make(ledger, sock)
        found = [leftover for leftover in charged(ledger) if leftover.state == "CLOSE_WAIT"]
    assert [(leftover.cause, leftover.remedy) for leftover in found] == [("unread", Cause.UNREAD.remedy)]


def test_kept_by_child(ledger):
    """The child is named, and the socket described by what it has."""
    with listen() as listener, socket.socket() as sock:
        sock.connect(listener.getsockname())
        make(ledger, sock)
        ledger.look()
        name = ":".join(map(str, sock.getsockname()))
        with start_child(pass_fds=[sock.fileno()]) as child:
            sock.close()
            [found] = [leftover for leftover in charged(ledger) if leftover.cause == "kept_by_child"]
            assert (found.pid, found.local, found.state) == (child.pid, name, "ESTABLISHED")
            assert found.held_by[0].startswith(f"process {child.pid}: ")


def test_child_that_has_ended_since(ledger):
    """What it had is told of all the same, without an address."""
    with socket.socket() as sock:
        make(ledger, sock)
        ledger.look()
        with start_child(pass_fds=[sock.fileno()]):
            sock.close()
            ledger.births.moment.owner.is_over = True
            suspects = [suspect for suspect in ledger.due() if suspect.child]
        [charge] = charge_suspects(suspects)
    assert (charge.leftover.cause, charge.leftover.state, charge.leftover.local) == (
        *("kept_by_child", "held by a child process", ""),
    )


def test_deaths(ledger):
    """What was thrown away has no descriptor and no holder; where it was too late to look, that is said."""
    with make(ledger) as sock:
        birth = ledger.births.by_inode[inode_of(sock)]
        told, untold = [c.leftover for c in charge_deaths([Death(birth, sketch_socket(sock)), Death(birth, None)])]
    assert (told.cause, told.fd, told.held_by, told.state) == ("unclosed", None, (), "UNCONNECTED")
    assert (untold.protocol, untold.state) == ("socket", "closed by now")


def test_opened_in_somebody_elses_time(ledger):
    """The record names both, if they differ."""
    with make(ledger) as sock:
        birth = ledger.births.by_inode[inode_of(sock)]
        birth.moment = Moment(Owner("the server"))
        [charge] = charge_deaths([Death(birth, None)])
    assert (charge.owner.name, charge.leftover.owner, charge.leftover.opened_in) == (
        *("the server", "the server", "the test"),
    )


@pytest.mark.needs_books
def test_queued():
    """A connection that nobody accepted has no inode; it is held by the queue."""
    test = Owner("the test")
    with listen() as listener:
        socket.create_connection(listener.getsockname()).close()
        port = listener.getsockname()[1]
        sick = eventually(lambda: [leak for leak in find_sick() if leak.local.port == port])
        [charge] = charge_queued(sick, test)
    assert charge.owner is test
    assert (charge.leftover.cause, charge.leftover.inode, charge.leftover.fd) == ("not_accepted", None, None)
    assert charge.leftover.held_by == (f"the accept queue of 127.0.0.1:{port}",)


def test_no_descriptor_left_to_ask_with(monkeypatch):
    """Whoever has no number left is told of no sick connection, and of no error."""
    import resource  # noqa: PLC0415 - not on Windows

    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, before[1]))
    try:
        assert find_sick() == []
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize(
    "code", ["KEPT.append(make())", "KEPT.append([make() for _ in '1'][0])", "(lambda: KEPT.append(make()))()"]
)
def test_functions_are_named_as_they_are_ignored(ledger, code):
    """Nested functions, lambdas and comprehensions by their qualified names, without `<locals>`."""
    text = f"def outer():\n    def inner():\n        {code}\n    inner()\nouter()"
    exec(compile(text, "app.py", "exec"), {"__name__": "app", "KEPT": KEPT, "make": lambda: make(ledger)})
    [found] = charged(ledger)
    assert "app.outer.inner" in found.created_by
    assert not any("<locals>" in name for name in found.created_by)


def test_line_of_code_that_is_not_to_be_had(ledger):
    """A program without source files: the place is told, the line is empty."""
    exec(compile("KEPT.append(make(ledger))", "gone.py", "exec"), dict(globals(), __name__="app", ledger=ledger))
    [found] = charged(ledger)
    assert (found.source_at, found.source, found.created_by[0]) == ("gone.py:1 in <module>", "", "app.<module>")
