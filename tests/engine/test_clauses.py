"""Which policy holds for a connection, and what follows from it."""

import gc

from sockguard._core.policy import Policy
from sockguard._engine.clauses import MAX_POLICIES, Clauses, ClausesBook
from sockguard._engine.record import stranger
from sockguard._engine.terms import Terms

USUAL = Policy(fin_timeout=60, leak_after=10, idle_timeout=80)


def record_with(policy):
    """Makes a record whose program has said that."""
    record = stranger(3, None, 0.0, is_server=True)
    record.terms = Terms(policy)
    return record


def test_what_follows_from_a_policy():
    """Under pressure a hung-up one gets no longer than a leak takes; the first look comes before any time-out."""
    usual = ClausesBook(USUAL).of(stranger(3, None, 0.0, is_server=True))
    assert usual.policy is USUAL
    assert (usual.hurried.fin_timeout, usual.first_look_after) == (10, 10)


def test_a_connection_without_a_policy_of_its_own_has_the_usual_one():
    """Whether it has terms or not."""
    book = ClausesBook(USUAL)
    assert book.of(record_with(None)) is book.usual


def n_clauses() -> int:
    """Counts those that somebody keeps."""
    gc.collect()
    return sum(type(thing) is Clauses for thing in gc.get_objects())


def test_many_policies_are_not_kept_for_ever():
    """A program that makes a policy for each connection does not grow for it; and each gets its own."""
    book, before = ClausesBook(USUAL), n_clauses()
    for n in range(3 * MAX_POLICIES):
        policy = Policy(idle_timeout=n + 1.0)
        assert book.of(record_with(policy)).policy is policy
    assert n_clauses() - before <= MAX_POLICIES
