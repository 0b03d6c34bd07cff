"""Which connection belongs to a transport, protocol or writer: by identity, and for no longer than they live."""

import asyncio
import gc
import socket
import weakref

import pytest

from guarded import driven
from sockguard._core.policy import Policy
from sockguard._engine.terms import Terms
from sockguard._engine.transports import fd_of_transport, socket_of
from sockguard.adapters.loops.members import Member, Members


class Transport:
    """What is asked of a transport here, of a socket that is its own."""

    def __init__(self, protocol=None):
        self.sock, self.other = socket.socketpair()
        self.protocol = protocol

    def get_extra_info(self, name):
        assert name == "socket"
        return self.sock

    def get_protocol(self):
        return self.protocol

    def close(self):
        self.sock.close()
        self.other.close()


class Equal:
    """Compares by value, and can therefore not be hashed."""

    def __eq__(self, other):
        return isinstance(other, Equal)

    __hash__ = None


@pytest.fixture
def guard():
    """A guard that does nothing by itself."""
    with driven() as made:
        yield made.guard


@pytest.fixture
def transport():
    """An open transport."""
    made = Transport(Equal())
    yield made
    made.close()


def member_of(transport, guard, group=None):
    """Makes a member."""
    return Member(transport, Terms(Policy()), guard, group)


def test_each_way_leads_to_the_member(guard, transport):
    """The transport, its protocol, and whatever has a `transport`."""
    members, member = Members(), member_of(transport, guard)
    members.add(transport, member)
    members.add(transport.protocol, member)
    holder = Equal()
    holder.transport = transport
    assert [members.find(thing) for thing in (transport, transport.protocol, holder)] == [member] * 3


def test_equal_is_not_the_same(guard, transport):
    """Another protocol that compares equal has no connection for that."""
    members = Members()
    members.add(transport.protocol, member_of(transport, guard))
    assert members.find(Equal()) is None


def test_one_that_replaced_another_is_found_by_its_protocol_or_descriptor(guard, transport):
    """As that of TLS does, which `start_tls` puts on top."""
    members, member = Members(), member_of(transport, guard)
    members.add(transport, member)
    top = Transport(Equal())
    own, top.sock = top.sock, transport.sock
    assert members.find(top) is member
    top.sock = own
    assert members.find(top) is None
    members.add(transport.protocol, member)
    top.protocol = transport.protocol
    assert members.find(top) is member
    top.close()


def test_what_dies_is_forgotten(guard):
    """Transports come and go by the million; also if a new one lies where an old one lay."""
    members = Members()
    for _ in range(100):
        transport = Transport(Equal())
        members.add(transport, member_of(transport, guard))
        members.add(transport.protocol, member_of(transport, guard))
        transport.close()
    del transport
    assert members._entries == {}  # noqa: SLF001


def test_one_that_is_added_again_has_its_last_member(guard, transport):
    """A protocol may have several connections, one after the other."""
    members, first, second = Members(), member_of(transport, guard), member_of(transport, guard)
    members.add(transport.protocol, first)
    members.add(transport.protocol, second)
    assert members.find(transport.protocol) is second


class Slotted:
    """Cannot be weakly referred to; a transport of that kind, as uvloop's of TLS, and a protocol."""

    __slots__ = ("protocol", "sock")

    def __init__(self, sock=None, protocol=None):
        self.sock, self.protocol = sock, protocol

    def get_extra_info(self, _):
        return self.sock

    def get_protocol(self):
        return self.protocol


def test_a_transport_without_weak_references_lives_by_its_protocol(guard, transport):
    """A stand-in holds it as long as its protocol lives; that is what the guard refers to."""
    members, protocol = Members(), Equal()
    stiff = Slotted(transport.sock, protocol)
    member = member_of(stiff, guard)
    members.add(stiff, member)
    members.add(protocol, member)
    assert (members.find(stiff), member.transport(), member.owner.get_protocol()) == (member, stiff, protocol)
    owner = weakref.ref(member.owner)
    stiff.protocol = None  # as when the connection is lost
    del stiff, member
    gc.collect()
    assert owner() is not None
    del protocol
    gc.collect()
    assert (owner(), members._entries) == (None, {})  # noqa: SLF001


def test_a_protocol_without_weak_references_is_not_noted(guard, transport):
    """There is no error; its transport leads to the connection."""
    members, member = Members(), member_of(transport, guard)
    protocol = Slotted()
    members.add(protocol, member)
    members.add(transport, member)
    assert (members.of(protocol), members.of(transport)) == (None, member)


def test_the_open_ones_of_a_group_are_listed(guard):
    """Each once, whatever it is known by; and not those of others, nor those that are closed."""
    members, group, other = Members(), object(), object()
    transports = [Transport(Equal()) for _ in range(3)]
    made = [member_of(t, guard, g) for t, g in zip(transports, (group, group, other), strict=True)]
    for transport, member in zip(transports, made, strict=True):
        members.add(transport, member)
        members.add(transport.protocol, member)
    transports[1].close()
    assert members.of_group(group) == [made[0]]
    for transport in transports:
        transport.close()


@pytest.mark.parametrize("thing", [None, 7, object(), asyncio.Protocol()])
def test_what_is_no_transport_has_no_socket(thing):
    """And leads to no member."""
    assert (socket_of(thing), fd_of_transport(thing), Members().find(thing)) == (None, -1, None)


def test_the_connection_is_made_once(guard, transport):
    """Whoever asks again gets the same object; it says what is so now."""
    member = member_of(transport, guard)
    assert member.connection is member.connection
    transport.close()
    assert member.connection.state == "closed"
