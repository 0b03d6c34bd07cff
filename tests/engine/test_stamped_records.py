"""Which connections have books of their own: known by their owner, and by no number."""

import socket
import weakref

import pytest

from sockguard._core.books import Books
from sockguard._core.connection import Demand
from sockguard._engine.stamped_records import StampedRecords
from sockguard._engine.terms import Terms


class Owner:
    """Anything that can be referred to weakly."""


@pytest.fixture
def records():
    """No connection yet."""
    return StampedRecords()


def announce(records, owner, *, books=True, terms=None, raw=()):
    """Tells of a connection, as the guard does from whatever thread."""
    terms = terms or Terms(None, Books(5.0) if books else None)
    records.opened.append((weakref.ref(owner), 7, True, None, None, terms, *raw))
    return terms


def test_what_was_opened_is_known_from_the_next_tick_on(records):
    """With the instant that its books say, which no time-out may precede; due at once."""
    owner = Owner()
    terms = announce(records, owner)
    assert (len(records), records.all()) == (0, [])
    records.enlist(100.0)
    (record,) = records.all()
    assert (record(), record.opened_at, record.cookie, record.terms) == (owner, 5.0, None, terms)
    assert records.due(100.0) == [record]
    assert records.due(200.0) == []


@pytest.mark.parametrize("why", ["owner is dead", "terms have no books"])
def test_what_is_no_matter_of_ours_is_passed_over(records, why):
    """One that was dropped before the tick; one whose books the kernel keeps."""
    owner = Owner()
    announce(records, owner, books=why == "owner is dead")
    if why == "owner is dead":
        del owner
    records.enlist(100.0)
    assert records.all() == []


def test_two_owners_are_two_connections_whatever_number_they_have(records):
    """Numbers are given again; each record has a serial of its own."""
    owners = Owner(), Owner()
    for owner in owners:
        announce(records, owner)
    records.enlist(100.0)
    first, second = records.all()
    assert first.fd == second.fd
    assert first.serial != second.serial


def test_an_owner_that_died_is_told_and_dropped_only_if_it_is_still_meant(records):
    """Another object may have its identity by then."""
    owner = Owner()
    announce(records, owner)
    records.enlist(100.0)
    (record,) = records.all()
    del owner
    assert records.take_died() == [record]
    other = Owner()
    announce(records, other)
    records.enlist(101.0)
    (second,) = [found for found in records.all() if found() is other]
    records.drop(second)
    records.drop(record)
    assert records.all() == []


def test_the_same_owner_with_other_terms_gets_a_new_record(records):
    """And with the same terms keeps what is known of it."""
    owner = Owner()
    terms = announce(records, owner)
    records.enlist(100.0)
    (before,) = records.all()
    announce(records, owner, terms=terms)
    records.enlist(101.0)
    assert records.all() == [before]
    announce(records, owner)
    records.enlist(102.0)
    (after,) = records.all()
    assert after is not before


def test_the_socket_is_the_owner_unless_another_one_is_told_of(records):
    """Neither is kept alive."""
    with socket.socket() as sock:
        owner = Owner()
        announce(records, owner, raw=[weakref.ref(sock)])
        announce(records, sock)
        records.enlist(100.0)
        assert {record(): record.raw() for record in records.all()} == {owner: sock, sock: sock}


def test_a_demand_makes_a_connection_due(records):
    """At its instant, whenever the wheel would have it looked at."""
    owner = Owner()
    terms = announce(records, owner)
    records.enlist(100.0)
    (record,) = records.due(100.0)
    terms.demands.append(Demand("deadline", 100.0, 5.0))
    assert records.due(104.0) == []
    assert records.due(105.0) == [record]


def test_after_a_fork_all_are_asleep_and_in_the_child_without_a_loop(records):
    """Those that were opened just before as well."""
    owner = Owner()
    announce(records, owner)
    records.after_fork_in_child(100.0)
    (record,) = records.all()
    assert (record.asleep_at, record.loop) == (100.0, None)
