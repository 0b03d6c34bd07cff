"""The wheel against what it promises: each key once, never early, at most one tick late."""

import sys
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sockguard._core.fd_table import FdTable
from sockguard._core.timers import TICK, Wheel
from strategies import DYADIC

KEYS = st.integers(0, 5)
SCHEDULE = st.tuples(st.just("schedule"), KEYS, st.one_of(DYADIC, st.floats(-10.0, 300.0)))
CANCEL = st.tuples(st.just("cancel"), KEYS, st.none())
PASS = st.tuples(st.just("pass"), st.none(), st.one_of(DYADIC, st.floats(0.0, 300.0)))
RETURN = st.tuples(st.just("pass"), st.none(), st.floats(-300.0, 0.0))
OPERATIONS = st.lists(st.one_of(SCHEDULE, SCHEDULE, CANCEL, PASS, RETURN), max_size=30)


@pytest.mark.slow
@given(OPERATIONS, st.sampled_from([TICK, 1.0, 0.125]), st.sampled_from([dict, FdTable]))
def test_keys_fire_once_never_early_and_at_most_a_tick_late(operations: list, tick: float, make_table) -> None:
    """Whatever is put in, moved, taken out and waited for: a plain dict of instants agrees within one tick."""
    wheel: Wheel[int] = Wheel(tick, make_table())
    waiting: dict[int, tuple[float, float]] = {}
    now = 0.0
    for operation, key, value in operations:
        if operation == "schedule":
            wheel.schedule(key, value)
            waiting[key] = (value, max(value, now))
        elif operation == "cancel":
            wheel.cancel(key)
            waiting.pop(key, None)
        else:
            fired = wheel.pop_due(now + value)
            now = max(now, now + value)
            assert len(fired) == len(set(fired))
            early = [key for key in fired if waiting.pop(key)[0] > now]
            late = [key for key, (_, at) in waiting.items() if at + tick <= now]
            assert (early, late) == ([], [])
        assert len(wheel) == len(waiting)
        assert (wheel.next_at is None) == (not waiting)


@given(st.dictionaries(KEYS, DYADIC, min_size=1))
def test_next_instant_is_when_the_first_key_fires(instants: dict[int, float]) -> None:
    """Nothing fires before `next_at`, and something then."""
    wheel: Wheel[int] = Wheel()
    for key, at in instants.items():
        wheel.schedule(key, at)
    at = wheel.next_at
    assert at is not None and min(instants.values()) <= at < min(instants.values()) + TICK
    assert wheel.pop_due(at - 1e-6) == []
    assert wheel.pop_due(at) != []


def test_key_that_is_put_in_again_is_moved() -> None:
    """It fires at its new instant only, whether that is later or sooner."""
    wheel: Wheel[str] = Wheel()
    wheel.schedule("a", 1.0)
    wheel.schedule("b", 5.0)
    wheel.schedule("a", 3.0)
    wheel.schedule("b", 2.0)
    assert [sorted(wheel.pop_due(now)) for now in (1.0, 2.0, 3.0, 5.0)] == [[], ["b"], ["a"], []]
    assert len(wheel) == 0


def test_key_that_is_overdue_fires_at_the_next_tick() -> None:
    """Also one whose instant lies before what has been fired: it is not lost in the past."""
    wheel: Wheel[str] = Wheel()
    assert wheel.pop_due(100.0) == []
    wheel.schedule("a", 3.0)
    assert wheel.next_at == 100.0 + TICK
    assert wheel.pop_due(100.0) == []
    assert wheel.pop_due(100.0 + TICK) == ["a"]


def test_cancelling_takes_out_one_key_of_a_tick() -> None:
    """The others of the same tick stay; one that is not in is no error."""
    wheel: Wheel[str] = Wheel()
    for key in "abc":
        wheel.schedule(key, 1.0)
    wheel.cancel("b")
    wheel.cancel("never put in")
    assert sorted(wheel.pop_due(1.0)) == ["a", "c"]


def test_clock_that_stands_still_or_goes_back_fires_nothing() -> None:
    """A key waits until time has passed it for the first time."""
    wheel: Wheel[str] = Wheel()
    wheel.pop_due(50.0)
    wheel.schedule("a", 51.0)
    assert [wheel.pop_due(now) for now in (50.0, 0.0, 50.9, 51.0)] == [[], [], [], ["a"]]


def test_keys_of_many_ticks_fire_in_the_order_of_their_ticks() -> None:
    """Whether few ticks have passed or many."""
    for first in (0.0, 99.0):
        wheel: Wheel[int] = Wheel()
        wheel.pop_due(first)
        for n in reversed(range(10)):
            wheel.schedule(n, 100.0 + n)
        assert wheel.pop_due(200.0) == list(range(10))
        assert wheel.next_at is None


@pytest.mark.parametrize(("make_table", "most"), [(dict, 60), (FdTable, 24)])
def test_keys_that_wait_take_no_number_each(make_table, most) -> None:
    """Ten thousand that are due at one tick share what says when: only their place in two tables is their own."""
    wheel: Wheel[int] = Wheel(table=make_table())
    keys = range(10_000)
    tracemalloc.start()
    try:
        for key in keys:
            wheel.schedule(key, 1000.0)
        wheel.cancel(0)
        grown, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(wheel) == len(keys) - 1
    own_numbers = sum(map(sys.getsizeof, keys))  # the keys themselves, which range() makes as they are asked for
    assert (grown - own_numbers) / len(keys) < most
