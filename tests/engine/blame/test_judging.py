"""Waiting for what is about to be closed, in steps; then each leftover is told once, to whom it belongs."""

import socket
import threading
import time

import pytest

from children import start_child
from forks import succeeds_in_child
from loopback import inode_of, listen
from netstat import CLOSE_WAIT, wait_for
from sockguard._engine.blame.births import Moment
from sockguard._engine.blame.judging import FIRST_WAIT, LONGEST_WAIT, Judge
from sockguard._engine.blame.ledger import Ledger, Owner
from sockguard._engine.blame.queues import Queues

LONG = 30.0


class Scene:
    """A test that is over, unless said otherwise, and who judges it."""

    def __init__(self):
        self.ledger = Ledger()
        self.ledger.look()
        self.queues = Queues(self.ledger)
        self.test = self.begin("test")

    def begin(self, name):
        """Has somebody begin."""
        owner = Owner(name)
        self.ledger.births.enter(Moment(owner))
        return owner

    def make(self):
        """Opens a socket, as the wrapper of `socket.socket.__init__` tells of it."""
        sock = socket.socket()
        self.ledger.births.born(sock, 1)
        return sock

    def judge(self, **options):
        """Ends the test."""
        self.ledger.look()
        self.test.is_over = True
        return Judge(self.ledger, self.queues, self.test, **options)


@pytest.fixture
def scene():
    """The same, made anew."""
    made = Scene()
    yield made
    made.ledger.shut()


@pytest.fixture
def somebody():
    """A thread that could close something, so that it makes sense to wait."""
    may_go = threading.Event()
    thread = threading.Thread(target=may_go.wait)
    thread.start()
    yield
    may_go.set()
    thread.join()


def inodes(charges):
    """Which sockets they are about."""
    return [charge.leftover.inode for charge in charges]


def test_nothing_left_is_not_waited_for(scene, somebody):
    """All is closed: no wait, no charge."""
    scene.make().close()
    judge = scene.judge()
    assert (list(judge.waits(LONG)), judge.conclude()) == ([], [])


def test_waits_grow(scene, somebody):
    """A look each time, at first soon and then ever more rarely, until it is closed."""
    sock = scene.make()
    told = []
    judge = scene.judge()
    for seconds in judge.waits(LONG):
        told.append(seconds)
        if len(told) == 9:
            sock.close()
    assert told == [min(FIRST_WAIT * 2**n, LONGEST_WAIT) for n in range(9)]
    assert judge.conclude() == []


def test_grace_is_all_that_is_waited(scene, somebody):
    """Whatever time the looks take; the last wait is no longer than what is left of it."""
    with scene.make() as sock:
        judge = scene.judge()
        began = time.monotonic()
        told = []
        for seconds in judge.waits(0.15):
            told.append(seconds)
            time.sleep(seconds)
        assert sum(told) <= 0.15
        assert time.monotonic() - began >= 0.15
        assert inodes(judge.conclude()) == [inode_of(sock)]


def test_no_grace_is_one_look(scene, somebody):
    """Nothing is waited for."""
    with scene.make():
        judge = scene.judge()
        assert list(judge.waits(0)) == []
        assert len(judge.conclude()) == 1


@pytest.mark.parametrize(("has_loop", "waits"), [(False, False), (True, True)])
def test_who_is_alone_does_not_wait(scene, has_loop, waits):
    """With one thread and no child nobody could close it meanwhile; with an event loop, its tasks could."""

    def is_as_expected() -> bool:
        with scene.make():
            first = next(scene.judge(has_loop=has_loop).waits(LONG), None)
        return (first is not None) == waits

    assert succeeds_in_child(is_as_expected)  # here may be threads of other tests; a child has one


def test_who_has_a_child_waits(scene):
    """The child may close its copy, or end."""
    with start_child(), scene.make():
        assert next(scene.judge().waits(LONG), None) is not None


def test_each_is_told_once(scene):
    """Who is judged after that has other worries."""
    with scene.make() as sock:
        judge = scene.judge()
        list(judge.waits(0))
        assert inodes(judge.conclude()) == [inode_of(sock)]
        scene.test = scene.begin("next")
        judge = scene.judge()
        list(judge.waits(0))
        assert judge.conclude() == []


def test_number_that_is_used_again_while_we_wait(scene, somebody):
    """The socket is closed, and its number goes to somebody's who is not over: nobody is charged."""
    sock = scene.make()
    judge = scene.judge()
    for _ in judge.waits(LONG):
        number = sock.fileno()
        sock.close()
        scene.begin("next")
        other = scene.make()
        assert other.fileno() == number
    assert judge.conclude() == []
    other.close()


def test_moved_to_a_child_while_we_wait(scene, somebody):
    """Closed here after a child got a copy: who opened it is charged, and the child is named."""
    sock = scene.make()
    inode = inode_of(sock)
    judge = scene.judge()
    waits = judge.waits(2.0)
    next(waits)
    with start_child(pass_fds=[sock.fileno()]) as child:
        sock.close()
        for seconds in waits:
            time.sleep(seconds)
        [charge] = judge.conclude()
        assert (charge.leftover.inode, charge.leftover.cause, charge.leftover.pid) == (
            inode,
            "kept_by_child",
            child.pid,
        )


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_deaths_are_told_with_the_rest(scene):
    """Thrown away while it was open: there is nothing to wait for."""
    sock = scene.make()
    inode = inode_of(sock)
    scene.ledger.births.thrown_away(sock.fileno(), sock)
    sock.close()
    judge = scene.judge()
    assert list(judge.waits(LONG)) == []
    assert [(c.leftover.inode, c.leftover.cause) for c in judge.conclude()] == [(inode, "unclosed")]


def serve(scene):
    """A fixture that listens, and a test during which its server accepts a client that then goes."""
    server = scene.begin("server")
    scene.ledger.owners.append(server)
    stack = listen()
    listener = stack.__enter__()
    scene.ledger.look()
    scene.ledger.births.enter(Moment(scene.test))
    client = socket.create_connection(listener.getsockname())
    served = listener.accept()[0]
    scene.ledger.births.by_inode[inode_of(client)] = scene.ledger.births.found(inode_of(client), Moment(scene.test))
    scene.ledger.look()
    return stack, client, served


def test_early_only_servers_are_looked_at(scene):
    """Before the teardown a test's own sockets are no concern; what its client left a server with is."""
    stack, client, served = serve(scene)
    own = scene.make()
    judge = Judge(scene.ledger, scene.queues, scene.test, is_early=True)
    list(judge.waits(0))
    assert judge.conclude() == []
    client.close()
    judge = Judge(scene.ledger, scene.queues, scene.test, is_early=True)
    list(judge.waits(0))
    [charge] = judge.conclude()
    assert (charge.leftover.inode, charge.owner, charge.leftover.state) == (inode_of(served), scene.test, "CLOSE_WAIT")
    own.close()
    served.close()
    stack.__exit__(None, None, None)


@pytest.mark.needs_books
def test_what_waits_in_a_queue_is_told_once(scene):
    """Of who was never accepted and has gone, whoever is judged is told; the next one is not."""
    server = scene.begin("server")
    scene.ledger.owners.append(server)
    with listen() as listener:
        scene.ledger.look()
        scene.ledger.births.enter(Moment(scene.test))
        socket.create_connection(listener.getsockname()).close()
        wait_for(listener.getsockname()[1], state=CLOSE_WAIT)
        judge = scene.judge()
        list(judge.waits(0))
        [charge] = judge.conclude()
        assert (charge.owner, charge.leftover.cause) == (scene.test, "not_accepted")
        judge = scene.judge()
        assert (list(judge.waits(0)), judge.conclude()) == ([], [])
