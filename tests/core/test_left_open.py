"""What becomes of a connection that its handler leaves open: pure looks in, fate out."""

import pytest

from sockguard._core.connection import Activity
from sockguard._core.left_open import (
    FIRST_REST,
    LONGEST_REST,
    LOOKS,
    SPIN_AFTER,
    UNREAD_SPIN_AFTER,
    Fate,
    fate_of,
    look_again,
    rest_of,
)
from sockguard._core.policy import Policy

OVER, HALF, OPEN = 7, 8, 1
DRAIN, CLOSE, ALLOW = (Policy(half_close=word) for word in ("drain", "close", "allow"))
STRICT_OBSERVER = Policy(half_close="close", mode="observe")


def activity(state=HALF, *, unread=0, eof_unread=False, received=10, acked=5) -> Activity:
    return Activity(state, received, acked, unread, 0, 0.0, 0.0, eof_unread)


def looks(n, what, *, every=0.001, events=1, before=None, start=0.0):
    """Takes n looks at one thing; gives patience and time."""
    now = start
    for _ in range(n):
        before = look_again(before, what, events, now)
        now += every
    return before, now


@pytest.mark.parametrize(
    ("what", "policy"),
    [(activity(OVER), DRAIN), (activity(OVER), ALLOW), (activity(OVER), CLOSE), (activity(HALF), CLOSE)],
)
def test_what_is_to_be_closed_is_told_first(what, policy):
    """One look is not enough, as the end may have come after the handler was told; the second one is."""
    patience, now = looks(1, what)
    assert fate_of(what, patience, policy, now) is Fate.SOON
    patience, now = looks(1, what, before=patience, start=now)
    assert fate_of(what, patience, policy, now) is Fate.CLOSE


def test_an_eof_that_is_read_under_our_eyes_proves_that_the_handler_knows():
    """Between two looks the EOF has gone, and nothing else: who read it needs not be told once more."""
    before, now = looks(1, activity(eof_unread=True))
    after = look_again(before, activity(eof_unread=False), 1, now)
    assert fate_of(activity(), after, CLOSE, now) is Fate.CLOSE
    with_data = look_again(looks(1, activity(unread=3, eof_unread=True))[0], activity(eof_unread=False), 1, now)
    assert fate_of(activity(), with_data, CLOSE, now) is Fate.SOON  # the last byte took the FIN along


@pytest.mark.parametrize("policy", [DRAIN, ALLOW, CLOSE])
def test_what_is_half_closed_is_not_closed_while_bytes_are_unread(policy):
    """However long it takes, and whatever the policy: its fin_timeout is the guard's business."""
    what = activity(HALF, unread=1, eof_unread=True)
    patience, now = looks(10 * LOOKS, what, every=10)
    assert fate_of(what, patience, policy, now) is Fate.REST
    assert fate_of(what, patience._replace(n_rests=9), policy, now) is Fate.REST


@pytest.mark.parametrize("half_close", ["drain", "close"])
@pytest.mark.parametrize("n_rests", [0, 9])
def test_what_is_over_keeps_unread_bytes_for_twice_fin_timeout(half_close, n_rests):
    """Counted from when anything last moved; the guard does not end it, as there is nothing left to shut down."""
    what, policy = activity(OVER, unread=1), Policy(half_close=half_close, fin_timeout=15)
    patience, _ = looks(2 * LOOKS, what, every=1)
    patience = patience._replace(n_rests=n_rests)
    assert fate_of(what, patience, policy, 29.9) is Fate.REST
    assert fate_of(what, patience, policy, 30.0) is Fate.CLOSE
    assert fate_of(what, patience, Policy(half_close=half_close, fin_timeout=None), 1e6) is Fate.REST
    patience = look_again(patience, activity(OVER, unread=2, received=11), 1, 29.9)
    assert fate_of(what, patience, policy, 30.0) is not Fate.CLOSE


def test_what_is_over_is_not_closed_by_allow_while_bytes_are_unread():
    """Both ends may have sent their FIN, as one may that stands half closed for ever."""
    what = activity(OVER, unread=1)
    patience, now = looks(10 * LOOKS, what, every=1000)
    assert fate_of(what, patience._replace(n_rests=9), ALLOW, now) is Fate.REST


def test_what_is_over_with_bytes_unread_is_told_once_more():
    """A loop that was blocked for longer than fin_timeout has told nobody meanwhile."""
    what, policy = activity(OVER, unread=1), Policy(fin_timeout=1)
    patience, now = looks(1, what, every=5)
    assert fate_of(what, patience, policy, now) is Fate.KEEP
    patience, now = looks(1, what, before=patience, start=now)
    assert fate_of(what, patience, policy, now) is Fate.CLOSE


@pytest.mark.parametrize("policy", [DRAIN, ALLOW])
def test_a_half_closed_connection_is_never_closed_for_that(policy):
    """But by the strict policy; here its fin_timeout decides, which is the guard's business."""
    patience, now = looks(10 * LOOKS, activity(), every=10)
    assert fate_of(activity(), patience._replace(n_rests=9), policy, now) is Fate.REST


def test_the_strict_policy_closes_what_nobody_reads_the_end_of():
    """Not before it has rested once, for a handler that comes late."""
    what = activity(eof_unread=True)
    patience, now = looks(LOOKS, what, every=1)
    assert fate_of(what, patience, CLOSE, now) is Fate.REST
    assert fate_of(what, patience._replace(n_rests=1), CLOSE, now) is Fate.CLOSE


@pytest.mark.parametrize(("unread", "least"), [(0, SPIN_AFTER), (1, UNREAD_SPIN_AFTER)])
def test_a_spin_takes_looks_and_time(unread, least):
    """Both have to be there: a slow loop looks seldom, a fast one often."""
    what = activity(unread=unread, eof_unread=True)
    for n_looks, seconds, is_spin in [(LOOKS - 1, 99, False), (LOOKS, least / 2, False), (LOOKS, least * 1.01, True)]:
        patience, _ = looks(n_looks, what, every=0)
        assert (fate_of(what, patience, DRAIN, seconds) is Fate.REST) == is_spin


@pytest.mark.parametrize(
    "change",
    [{"received": 11}, {"acked": 6}, {"unread": 1}, {"state": OVER}, {"events": 3}, {"received": 11, "unread": 1}],
)
def test_whatever_changes_is_no_spin(change):
    """A byte that was read, acknowledged or has come, another state, other events: it begins anew."""
    events = change.pop("events", 1)
    patience, now = looks(LOOKS, activity(), every=1)
    assert look_again(patience, activity(**change), events, now).n_looks == 1
    assert look_again(patience, activity(), 1, now).n_looks == LOOKS + 1


@pytest.mark.parametrize("what", [activity(OVER), activity(HALF), activity(OPEN)])
def test_observe_decides_nothing(what):
    """A policy that only looks keeps everything as it is."""
    patience, now = looks(10 * LOOKS, what, every=10)
    assert fate_of(what, patience, STRICT_OBSERVER, now, is_ended=True) is Fate.KEEP


@pytest.mark.parametrize("state", [OPEN, HALF, OVER])
def test_what_the_guard_has_ended_is_closed_when_its_handler_knows(state):
    """Whatever state that leaves it in, and though bytes may be unread."""
    what = activity(state, unread=3)
    patience, now = looks(1, what)
    assert fate_of(what, patience, ALLOW, now, is_ended=True) is Fate.SOON
    patience, now = looks(1, what, before=patience, start=now)
    assert fate_of(what, patience, ALLOW, now, is_ended=True) is Fate.CLOSE


def test_what_has_not_ended_is_kept():
    """An open connection is none of this module's business."""
    patience, now = looks(10 * LOOKS, activity(OPEN), every=10)
    assert fate_of(activity(OPEN), patience, CLOSE, now) is Fate.KEEP


def test_rests_grow():
    """Each is twice the one before, up to the longest."""
    patience, _ = looks(1, activity())
    rests = [rest_of(patience._replace(n_rests=n)) for n in range(100)]
    assert rests[0] == FIRST_REST and rests[1] == 2 * FIRST_REST and rests[-1] == LONGEST_REST
    assert rests == sorted(rests)
