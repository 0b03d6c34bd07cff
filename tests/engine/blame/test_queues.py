"""Who waits in an accept queue although he has gone: found once, and only where somebody is to be charged."""

import socket

import pytest

from loopback import listen
from sockguard._core.leaks import Cause
from sockguard._engine.blame.births import Moment
from sockguard._engine.blame.ledger import Ledger, Owner
from sockguard._engine.blame.queues import Queues
from waiting import eventually

pytestmark = pytest.mark.needs_books


class Scene:
    """A fixture that listens, and the queues of this process."""

    def __init__(self):
        self.ledger = Ledger()
        self.ledger.look()
        self.fixture = Owner("fixture")
        self.ledger.owners.append(self.fixture)
        self.ledger.births.enter(Moment(self.fixture))
        self.queues = Queues(self.ledger)

    def find(self):
        """Looks, as the end of a test does."""
        self.ledger.look()
        return self.queues.find()


@pytest.fixture
def scene():
    """The same, made anew."""
    made = Scene()
    yield made
    made.ledger.shut()


def come_and_go(listener):
    """Connects and closes."""
    socket.create_connection(listener.getsockname()).close()


def test_client_that_has_gone_is_found_until_told(scene):
    """One leak for each, with the listener's address; once told of it is old news, and a further one is new."""
    with listen() as listener:
        come_and_go(listener)
        [leak] = eventually(scene.find)
        assert (leak.cause, leak.inode, leak.local.port) == (Cause.NOT_ACCEPTED, None, listener.getsockname()[1])
        assert len(scene.find()) == 1
        scene.queues.told([leak])
        assert scene.find() == []
        come_and_go(listener)
        assert len(eventually(scene.find)) == 1


def test_client_that_waits_is_no_leak(scene):
    """It may be accepted yet."""
    with listen() as listener, socket.create_connection(listener.getsockname()):
        assert scene.find() == []


@pytest.mark.parametrize("change", ["is_over", "is_excused"])
def test_listener_of_somebody_who_is_not_asked(scene, change):
    """Its owner is over, or nobody asks what he leaves: the listener itself is told of, or nothing is."""
    with listen() as listener:
        come_and_go(listener)
        assert eventually(scene.find)
        setattr(scene.fixture, change, True)
        assert scene.find() == []


def test_listener_of_the_baseline(scene):
    """What was open before anybody looked is nobody's."""
    with listen() as listener:
        scene.ledger.births.enter(Moment(scene.ledger.baseline))
        scene.ledger.look()
        come_and_go(listener)
        assert scene.find() == []


def test_without_a_fixture_nobody_is_asked(scene):
    """No look is taken where no listener can outlive a test."""
    with listen() as listener:
        scene.ledger.look()
        come_and_go(listener)
        scene.ledger.owners.clear()
        assert scene.find() == []


def test_queues_of_others_are_none_of_ours(scene):
    """A listener of another owner in the same state, of which the books know nothing, is left out."""
    with listen() as known, listen() as other:
        scene.ledger.look()
        come_and_go(other)
        come_and_go(known)
        del scene.ledger.inodes[next(i for i, fds in scene.ledger.inodes.items() if other.fileno() in fds)]
        found = eventually(scene.queues.find)
        assert [leak.local.port for leak in found] == [known.getsockname()[1]]


@pytest.mark.parametrize("kind", [socket.AF_UNIX, socket.AF_INET6])
def test_other_listeners(scene, tmp_path, kind):
    """Unix sockets have no such queue to show; IPv6 has."""
    address = str(tmp_path / "s") if kind == socket.AF_UNIX else ("::1", 0)
    with socket.socket(kind) as listener:
        listener.bind(address)
        listener.listen()
        with socket.socket(kind) as client:
            client.connect(listener.getsockname())
        found = scene.find() if kind == socket.AF_UNIX else eventually(scene.find)
        assert len(found) == (kind == socket.AF_INET6)
