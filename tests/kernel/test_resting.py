"""A history that is kept packed comes back as it was."""

from hypothesis import given

from sockguard._core.connection import Activity, Connection, Demand, Reason, Step, begin, observe
from sockguard._kernel.resting import rest, wake
from strategies import connections

ESTABLISHED, CLOSE_WAIT = 1, 8
QUIET = Activity(ESTABLISHED, received=500, acked=80, unread=0, unsent=0, since_received=4.0, since_heard=2.0)


def looked_at(activity: Activity = QUIET) -> Connection:
    return begin(8202, activity, opened_at=100.25, now=110.5, is_server=True, has_loop=True)


@given(connections())
def test_a_history_comes_back_as_it_was(connection: Connection) -> None:
    """Whatever happened to it, and to the last bit of each instant."""
    woken = wake(rest(connection))
    assert (type(woken), woken) == (Connection, connection)
    assert list(map(type, woken)) == list(map(type, connection))


def test_one_with_which_nothing_is_the_matter_is_packed() -> None:
    """It takes half of what it takes as a tuple, and the next look goes on from it."""
    packed = rest(looked_at())
    assert isinstance(packed, bytes)
    assert packed.__sizeof__() <= looked_at().__sizeof__() // 2 + 16
    assert observe(wake(packed), QUIET, 120.0) == observe(looked_at(), QUIET, 120.0)


def test_one_that_has_more_to_tell_is_kept_as_it_is() -> None:
    """Bytes that wait, a peer that hung up, a step, a demand, a promise of long life: none of it gets lost."""
    plain = looked_at()
    troubled = [
        *(looked_at(QUIET._replace(**{queue: 1})) for queue in ("unread", "unsent")),
        looked_at(QUIET._replace(state=CLOSE_WAIT, eof_unread=True)),
        plain._replace(step=Step.FIN_SENT, stepped_at=112.0),
        plain._replace(demand=Demand(Reason.DEADLINE, 101.0, 3.0)),
        plain._replace(is_expected=True),
        plain._replace(trickle=(101.0, 3)),
    ]
    assert all(rest(each) is each for each in troubled)


def test_a_count_beyond_the_kernels_is_kept_as_it_is() -> None:
    """Books of a wrapper have no limit; nor may a number that does not fit cost the look."""
    plain = looked_at()
    assert [rest(each) is each for each in (plain._replace(received=2**64), plain._replace(acked=-1))] == [True, True]
