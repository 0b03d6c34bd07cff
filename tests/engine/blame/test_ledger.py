"""The books: what is due when an owner is over, and what never is."""

import socket

import pytest

from children import start_child
from loopback import connect, inode_of, listen, vanished_peer
from sockguard._engine.blame.births import Death, Moment
from sockguard._engine.blame.ledger import Ledger, Owner


@pytest.fixture
def ledger():
    """Books that have seen what was open before."""
    made = Ledger()
    made.look()
    return made


def begin(ledger, name="test"):
    """Has an owner begin."""
    owner = Owner(name)
    ledger.births.enter(Moment(owner))
    return owner


def test_due_is_what_an_owner_left_when_it_is_over(ledger):
    """Not before; and not what was open when the books were opened. No hook is needed: it is found by its inode."""
    owner = begin(ledger)
    with socket.socket() as sock:
        assert ledger.due() == []
        owner.is_over = True
        [suspect] = ledger.due()
        assert (suspect.birth.inode, suspect.owner, suspect.fd) == (inode_of(sock), owner, sock.fileno())
    assert ledger.due() == []


@pytest.mark.parametrize("change", ["is_told", "is_internal"])
def test_what_was_told_or_is_internal_is_not_due(ledger, change):
    """Each socket is told once; those of loops never."""
    begin(ledger).is_over = True
    with socket.socket():
        [suspect] = ledger.due()
        setattr(suspect.birth, change, True)
        assert ledger.due() == []


def test_excused_owner_leaves_nothing_due(ledger):
    """A test that failed is not judged."""
    owner = begin(ledger)
    owner.is_over = owner.is_excused = True
    with socket.socket():
        assert ledger.due() == []


def test_other_families_are_not_due(ledger):
    """Netlink sockets do not count."""
    begin(ledger).is_over = True
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0):
        assert ledger.due() == []


def test_a_child_that_keeps_it(ledger):
    """Closed here and open in a child, it is due, with the child that has it."""
    owner = begin(ledger)
    with socket.socket() as sock:
        ledger.look()
        inode = inode_of(sock)
        with start_child(pass_fds=[sock.fileno()]) as child:
            sock.close()
            owner.is_over = True
            [suspect] = [suspect for suspect in ledger.due() if suspect.child]
            assert (suspect.birth.inode, suspect.child.pid) == (inode, child.pid)


def test_abandoned_connection_of_a_server(ledger):
    """What a wider owner's server keeps although the client has gone is charged to who ran when it was accepted."""
    server, test = Owner("server"), begin(ledger)
    with vanished_peer() as connection:
        ledger.look()
        birth = ledger.births.by_inode[inode_of(connection.server)]
        birth.moment = Moment(server)
        ledger.births.elsewhere[birth.inode] = birth
        [suspect] = ledger.abandoned(ledger.births.elsewhere.values())
        assert (suspect.owner, suspect.sketch.state) == (test, "CLOSE_WAIT")
        birth.is_told = True
        assert ledger.abandoned(ledger.births.elsewhere.values()) == []


def test_healthy_connection_of_a_server_is_not_abandoned(ledger):
    """As long as the client is there, all is well."""
    begin(ledger)
    with listen() as listener, socket.create_connection(listener.getsockname()), listener.accept()[0] as served:
        ledger.look()
        birth = ledger.births.by_inode[inode_of(served)]
        ledger.births.elsewhere[birth.inode] = birth
        assert ledger.abandoned(ledger.births.elsewhere.values()) == []


def test_server_is_not_charged_for_a_client_that_is_open(ledger):
    """The far end of a connection that somebody else left open is told of there."""
    begin(ledger).is_over = True
    with connect() as connection:
        ledger.look()
        birth = ledger.births.by_inode[inode_of(connection.server)]
        ledger.births.elsewhere[birth.inode] = birth
        inodes = {suspect.birth.inode for suspect in ledger.tell(ledger.due())}
        assert inode_of(connection.client) in inodes
        assert inode_of(connection.server) not in inodes


def test_deaths_are_given_out_when_their_owner_is_over(ledger):
    """Once; those of excused owners and of loops never."""
    owner, excused = begin(ledger), Owner("failed", is_excused=True)
    births = [ledger.births.found(-inode, Moment(who)) for inode, who in enumerate((owner, excused, owner), 2)]
    births[2].is_internal = True
    ledger.births.deaths = [Death(birth, None) for birth in births]
    assert ledger.take_deaths() == []
    owner.is_over = True
    assert [death.birth for death in ledger.take_deaths()] == [births[0]]
    assert ledger.take_deaths() == []


def test_look_if_changed(ledger):
    """It looks again when the number of descriptors differs."""
    with socket.socket() as sock:
        ledger.look_if_changed()
        assert inode_of(sock) in ledger.inodes


def test_close_forgets_what_is_closed(ledger):
    """And asks no more for what nobody is charged with, until it is told to."""
    owner = begin(ledger)
    with socket.socket() as sock:
        owner.is_excused = owner.is_over = True
        ledger.look()
        ledger.close()
        owner.is_excused = False
        assert ledger.due() == []
        ledger.ask_again()
        suspects = [suspect.birth.inode for suspect in ledger.due()]
        assert suspects == [inode_of(sock)]
    ledger.look()
    ledger.close()
    assert suspects[0] not in ledger.births.by_inode
