"""Whose socket is it? What a fixture's value leads to, what came through its listener, and what waits for a loop."""

import asyncio
import os
import socket
from types import ModuleType

import pytest

from loopback import connect, inode_of, listen
from sockguard._engine.blame import reach
from sockguard._engine.blame.belonging import claim, give_to_owners
from sockguard._engine.blame.births import Moment
from sockguard._engine.blame.ledger import Ledger, Owner

KEPT = []


class Scene:
    """A test that is over, and a fixture that lives."""

    def __init__(self):
        self.ledger = Ledger()
        self.ledger.look()
        self.test, self.fixture = Owner("test"), Owner("fixture")
        self.ledger.owners.append(self.fixture)
        self.ledger.births.enter(Moment(self.test))

    def note(self, *socks):
        """Takes socket objects down, as their creation would."""
        for sock in socks:
            self.ledger.births.born(sock)

    def left(self):
        """Judges the test: what is not given to somebody else, by inode."""
        self.test.is_over = True
        return {suspect.birth.inode for suspect in give_to_owners(self.ledger.due(), self.ledger)}


@pytest.fixture
def scene():
    """The same, made anew."""
    return Scene()


class Client:
    """Refers to its connection in one of many ways."""

    def __init__(self, value):
        self.value = value


def closure(sock):
    """Makes a function that refers to a socket."""
    return lambda: sock


def generator(sock):
    """Makes a generator that waits, with a socket in a local variable."""

    def wait():
        kept = sock
        yield kept

    waiting = wait()
    next(waiting)
    return waiting


@pytest.mark.parametrize(
    "hold",
    [
        Client,
        closure,
        generator,
        lambda sock: {"a": [(sock,)]},
        lambda sock: Client(closure(Client({"pool": {sock}}))),
        lambda sock: sock.close,
    ],
)
def test_what_a_value_leads_to_is_its_own(scene, hold):
    """By attributes, containers, closures, generators and methods."""
    with socket.socket() as sock:
        scene.note(sock)
        scene.fixture.roots = [hold(sock)]
        assert scene.left() == set()
        assert scene.ledger.births.by_inode[inode_of(sock)].moment.owner is scene.fixture


def uses_global():
    """Is a function whose module has the socket."""
    return KEPT


@pytest.mark.parametrize("root", [uses_global, socket, Client, lambda: KEPT])
def test_modules_and_classes_lead_everywhere_and_so_nowhere(scene, root):
    """A module global that a fixture's function could see is no property of the fixture."""
    with socket.socket() as sock:
        KEPT.append(sock)
        scene.note(sock)
        scene.fixture.roots = [root]
        left = scene.left()
        KEPT.clear()
        assert left == {inode_of(sock)}


def made_of(kind, **entries):
    """Makes a module or a class with these in it."""
    if kind is type:
        return type("Class", (), entries)
    module = ModuleType("module")
    vars(module).update(entries, __builtins__={})  # as one that was imported
    return module


@pytest.mark.parametrize("kind", [type, ModuleType])
def test_module_or_class_that_is_the_value_is_looked_into(scene, kind):
    """A fixture that gives a module, or a class, is asked for what is in there; not for modules and classes in that."""
    with socket.socket() as sock, socket.socket() as other:
        scene.note(sock, other)
        scene.fixture.roots = [made_of(kind, client=Client(sock), inner=made_of(kind, other=other))]
        assert scene.left() == {inode_of(other)}


def test_value_that_answers_for_its_class_is_not_asked(scene):
    """A proxy may do anything then, such as demand that a request is handled just now."""

    class Proxy:
        __class__ = property(lambda self: pytest.fail("code of the application was run"))

        def __init__(self, value):
            self.value = value

    with socket.socket() as sock:
        scene.note(sock)
        scene.fixture.roots = [Proxy(sock)]
        assert scene.left() == set()


@pytest.fixture
def large(monkeypatch):
    """Makes values that lead to more than is looked at, on the way to what they hold."""
    monkeypatch.setattr(reach, "MAX_OBJECTS", 100)
    return lambda sock: [[[number] for number in range(200)], [[Client(closure({"pool": {sock}}))]]]


def test_what_a_large_value_leads_to_is_its_own(scene, large):
    """Where the search is given up, it is asked who refers to the socket, and so on up to the value."""
    with socket.socket() as sock:
        scene.note(sock)
        scene.fixture.roots = [large(sock)]
        assert scene.left() == set()
        assert scene.ledger.births.by_inode[inode_of(sock)].moment.owner is scene.fixture


def test_what_hangs_elsewhere_is_not_that_of_a_large_value(scene, large):
    """The test that keeps it in a global is charged, and the one that throws it into a cycle, too."""
    with socket.socket() as sock, socket.socket() as cyclic:
        cycle = Client(cyclic)
        cycle.itself = cycle
        KEPT.append(sock)
        scene.note(sock, cyclic)
        scene.fixture.roots = [large(None)]
        left = scene.left()
        KEPT.clear()
        assert left == {inode_of(sock), inode_of(cyclic)}


@pytest.mark.parametrize("limit", ["MAX_WIDTH", "MAX_SECONDS", "no object"])
def test_what_cannot_be_found_out_is_of_the_large_value(scene, large, monkeypatch, limit):
    """That a test is innocent is not to be proved by the one who runs it."""
    with socket.socket() as sock:
        KEPT.append([sock])
        if limit != "no object":
            scene.note(sock)
            monkeypatch.setattr(reach, limit, 0)
        scene.fixture.roots = [large(None)]
        left = scene.left()
        KEPT.clear()
        assert left == set()


def test_large_value_claims_what_it_leads_to(scene, large):
    """Before the fixture is torn down, as for any other value."""
    with socket.socket() as sock, socket.socket() as other:
        KEPT.append(other)
        scene.note(sock, other)
        scene.fixture.roots = [large(sock)]
        claim(scene.fixture, scene.ledger)
        KEPT.clear()
        births = scene.ledger.births.by_inode
        owners = [births[inode_of(one)].moment.owner for one in (sock, other)]
        assert owners == [scene.fixture, scene.test]


def test_found_without_an_object(scene):
    """A socket that no object was noted for is found by the descriptor of what leads to it."""
    with socket.socket() as sock:
        scene.fixture.roots = [Client(sock)]
        assert scene.left() == set()


@pytest.mark.parametrize("is_baseline", [True, False])
def test_what_came_through_a_living_listener_belongs_to_it(scene, is_baseline):
    """The client is the test's, what was accepted is the server's."""
    scene.ledger.births.enter(Moment(scene.ledger.baseline if is_baseline else scene.fixture))
    with listen() as listener:
        scene.ledger.look()
        scene.ledger.births.enter(Moment(scene.test))
        with socket.create_connection(listener.getsockname()) as client, listener.accept()[0]:
            assert scene.left() == {inode_of(client)}


def test_what_a_client_has_abandoned_stays_charged(scene):
    """Though it came through a living listener, and the server's list leads to it."""
    scene.ledger.births.enter(Moment(scene.fixture))
    with listen() as listener:
        scene.ledger.look()
        scene.ledger.births.enter(Moment(scene.test))
        socket.create_connection(listener.getsockname()).close()
        with listener.accept()[0] as served:
            scene.fixture.roots = [[served]]
            assert scene.left() == {inode_of(served)}


def test_listener_of_the_test_itself_excuses_nobody(scene):
    """Whose owner is over is alive no more."""
    with connect() as connection:
        assert scene.left() == {inode_of(sock) for sock in connection}


def test_closing_transport_waits_for_its_loop(scene):
    """Told to close, it is left to a loop that stands still; when that is closed without having run, it is due."""
    loop = asyncio.new_event_loop()
    with listen() as listener:
        address = listener.getsockname()
        transport, _ = loop.run_until_complete(loop.create_connection(asyncio.Protocol, *address))
        scene.note(transport.get_extra_info("socket")._sock)  # noqa: SLF001
        transport.close()
        inode = inode_of(transport.get_extra_info("socket"))
        assert inode not in scene.left()
        assert inode not in {suspect.birth.inode for suspect in scene.ledger.due()}
        loop.run_until_complete(asyncio.sleep(0))
        assert inode not in {suspect.birth.inode for suspect in scene.ledger.due()}
    loop.close()


class KeepsOpen(asyncio.Protocol):
    """Ignores that the peer has hung up."""

    def eof_received(self):
        return True


def test_peer_that_hung_up_is_seen_when_the_loop_has_run(scene):
    """While the loop stands still nobody could close; after it has run for a while, it is due."""
    loop = asyncio.new_event_loop()
    with listen() as listener:
        scene.note(listener)
        transport, _ = loop.run_until_complete(loop.create_connection(KeepsOpen, *listener.getsockname()))
        scene.note(transport.get_extra_info("socket")._sock)  # noqa: SLF001
        listener.accept()[0].close()
        inode = inode_of(transport.get_extra_info("socket"))
        assert inode not in scene.left()
        loop.run_until_complete(asyncio.sleep(0.3))
        assert inode in scene.left()
        transport.abort()
        loop.run_until_complete(asyncio.sleep(0))
    loop.close()


def test_claimed_before_it_ends(scene):
    """What a fixture's value leads to is its own, if a test opened it; what others have stays theirs."""
    with socket.socket() as of_test, socket.socket() as of_other, socket.socket() as of_baseline:
        for sock, owner in ((of_test, scene.test), (of_other, Owner("other")), (of_baseline, scene.ledger.baseline)):
            scene.ledger.births.enter(Moment(owner))
            scene.note(sock)
        scene.ledger.owners.append(scene.ledger.births.by_inode[inode_of(of_other)].moment.owner)
        scene.fixture.roots = [[of_test, of_other, of_baseline]]
        claim(scene.fixture, scene.ledger)
        births = scene.ledger.births.by_inode
        owners = [births[inode_of(sock)].moment.owner for sock in (of_test, of_other, of_baseline)]
        assert owners == [scene.fixture, scene.ledger.owners[-1], scene.ledger.baseline]


def test_opened_in_c_it_may_be_hidden(scene):
    """As long as a fixture lives in whose value it may be, nobody is charged; then the test is."""
    fd = os.dup(0)  # keeps the numbers of files apart from that of the socket
    sock = socket.socket(fileno=socket.socket().detach())
    inode = inode_of(sock)
    number = sock.detach()
    scene.fixture.roots = [Client(object())]
    assert scene.left() == set()
    scene.fixture.is_over = True
    scene.ledger.owners.clear()
    assert scene.left() == {inode}
    os.close(number)
    os.close(fd)
