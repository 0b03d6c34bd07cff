"""What was taken away from a program, for as long as it may ask."""

import gc
import socket
from selectors import EVENT_READ, SelectorKey

from sockguard.adapters.selectors.taken_away import MAX_TAKEN, TakenAway, number_of


class Owner:
    """An object that can be referred to weakly."""


class Slotted:
    """One that cannot."""

    __slots__ = ()


def key_of(fileobj, data=None) -> SelectorKey:
    return SelectorKey(fileobj, 5, EVENT_READ, data)


def test_it_is_given_once():
    """The registration is found as often as it is asked for, until it is taken out."""
    taken, owner = TakenAway(), Owner()
    taken.add(key_of(owner, "data"))
    assert taken.of(owner) == taken.of(owner) == key_of(owner, "data")
    assert taken.pop(owner) == key_of(owner, "data")
    assert taken.pop(owner) is taken.of(owner) is None
    assert taken.of(Owner()) is None


def test_numbers_and_objects_are_not_confused():
    """A number is known by itself, an object by its identity."""
    taken, owner = TakenAway(), Owner()
    taken.add(key_of(7))
    assert taken.of(7) == key_of(7) and taken.of(8) is None
    taken.add(key_of(id(owner)))
    assert taken.of(owner) is None


def test_the_program_may_drop_it():
    """An object that the program has dropped is forgotten; one that cannot be referred to weakly is kept."""
    taken, owner, slotted = TakenAway(), Owner(), Slotted()
    taken.add(key_of(owner))
    taken.add(key_of(slotted))
    del owner
    gc.collect()
    assert len(taken) == 1 and taken.of(slotted) == key_of(slotted)


def test_it_has_a_limit():
    """Of too many, the oldest are forgotten."""
    taken = TakenAway()
    for number in range(MAX_TAKEN + 10):
        taken.add(key_of(number))
    assert len(taken) == MAX_TAKEN and taken.of(9) is None and taken.of(10) is not None


def test_what_is_being_closed_goes_by_any_name():
    """A close() that unregisters the socket below, or its number, gets the key that there was."""
    taken, owner = TakenAway(), Owner()
    taken.closing = key_of(owner, "data")
    with socket.socket() as closed:
        assert taken.pop(5) is taken.closing and taken.pop(closed) is None
    assert taken.pop(closed) is taken.closing


def test_numbers():
    """Whatever can be registered has one, or -1."""
    with socket.socket() as sock:
        assert number_of(sock) == sock.fileno() and number_of(3) == 3
    assert number_of(sock) == number_of(Owner()) == -1
