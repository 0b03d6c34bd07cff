"""Owners of heartbeats are called when it is time, weakly referred to, and none can keep the others from it."""

import gc
import threading

from hypothesis import given
from hypothesis import strategies as st

from sockguard._core.timers import TICK
from sockguard._engine.hearts import Hearts


class Owner:
    """Notes when it is called, and wants to be called again as it is told."""

    def __init__(self, *wishes):
        self.wishes, self.called_at = list(wishes), []

    def beat(self, now):
        self.called_at.append(now)
        wish = self.wishes.pop(0) if self.wishes else None
        if isinstance(wish, Exception):
            raise wish
        return wish


class Alike(Owner):
    """Compares equal to any other, and cannot be hashed."""

    __hash__ = None

    def __eq__(self, _):
        return True


def hearts() -> tuple[Hearts, list[tuple[str, Exception]]]:
    """Makes the hearts, and the list of what has failed."""
    failures = []
    return Hearts(lambda *failure: failures.append(failure)), failures


def test_an_owner_is_called_at_its_instant_and_again_when_it_says():
    """Never early, one tick late at most, and no more after None."""
    beating, owner = hearts()[0], Owner(20.0, None)
    beating.add(owner, 10.0)
    for n in range(200):
        beating.run(n * TICK)
    assert owner.called_at == [10.0, 20.0]
    assert len(beating) == 0


def test_an_instant_that_has_passed_is_the_next_tick():
    """So an owner that wants to be called at once is called once a tick, not for ever in one."""
    beating, owner = hearts()[0], Owner(0.0, 5.0, 0.0)
    beating.add(owner, 1.0)
    for now in (10.0, 10.25, 10.5):
        beating.run(now)
    assert owner.called_at == [10.0, 10.25, 10.5]


def test_an_owner_that_is_added_again_is_moved():
    """It is called once, at the later word; and one that is over can begin anew."""
    beating, owner = hearts()[0], Owner()
    beating.add(owner, 10.0)
    beating.run(1.0)
    beating.add(owner, 20.0)
    for now in (15.0, 20.0, 30.0):
        beating.run(now)
    beating.add(owner, 31.0)
    beating.run(40.0)
    assert owner.called_at == [20.0, 40.0]


def test_the_dead_are_not_called_and_drop_out():
    """Before their first tick or after it; nothing here keeps them alive."""
    beating, failures = hearts()
    owners = [Owner(), Owner()]
    beating.add(owners[0], 10.0)
    beating.run(1.0)
    beating.add(owners[1], 10.0)
    owners.clear()
    gc.collect()
    beating.run(2.0)  # long before they were due: with an hour between two questions the dead would pile up
    assert (len(beating), beating._entries, failures) == (0, {}, [])  # noqa: SLF001 - nothing is left behind


def test_owners_that_die_in_any_thread_drop_out():
    """While the guard's thread works; those that live are called."""
    beating, stays = hearts()[0], Owner()
    beating.add(stays, 1000.0)

    def churn() -> None:
        for _ in range(500):
            beating.add(Owner(), 1000.0)

    def keep_and_drop() -> None:
        owners = [Owner() for _ in range(500)]
        for owner in owners:
            beating.add(owner, 1000.0)
        is_added.wait(20)

    is_added = threading.Event()
    threads = [threading.Thread(target=each) for each in (churn, keep_and_drop, keep_and_drop)]
    for thread in threads:
        thread.start()
    beating.run(1.0)
    is_added.set()
    while any(thread.is_alive() for thread in threads):
        beating.run(1.0)
    gc.collect()
    for _ in range(2):
        beating.run(2.0)
    assert len(beating) == 1
    beating.run(1000.0)
    assert stays.called_at == [1000.0]


def heir_of(owner_id: int) -> Owner | None:
    """Makes an owner with the identity of one that has died; None if Python does not give it out again soon."""
    others = []
    while id(heir := Owner()) != owner_id:
        others.append(heir)  # kept alive, so that each has another place
        if len(others) > 1000:
            return None
    return heir


def test_an_owner_in_the_place_of_a_dead_one_is_its_own():
    """Python gives the identity of the dead out again; their end must not take the newcomer along."""
    heir = None
    for _ in range(100):
        beating, owner = hearts()[0], Owner()
        beating.add(owner, 10.0)
        beating.run(1.0)
        key = id(owner)
        del owner
        if heir := heir_of(key):
            break
    assert heir is not None, "Python gives no place out again"
    beating.add(heir, 20.0)
    for now in (2.0, 10.0):
        beating.run(now)
    beating.add(heir, 15.0)
    for now in (15.0, 20.0, 30.0):
        beating.run(now)
    assert (heir.called_at, len(beating)) == ([15.0], 0)


def test_one_that_raises_is_told_and_called_no_more_and_the_others_are():
    """Sockets of whatever subclass: one that is broken must not silence the rest."""
    beating, failures = hearts()
    error = ZeroDivisionError()
    owners = [Owner(2.0), Owner(error, 2.0), Owner(2.0)]
    for owner in owners:
        beating.add(owner, 1.0)
    for now in (1.0, 2.0):
        beating.run(now)
    assert [owner.called_at for owner in owners] == [[1.0, 2.0], [1.0], [1.0, 2.0]]
    assert failures == [("heartbeat", error)]


def test_owners_are_told_apart_by_identity():
    """A socket class may define equality as it likes, and hashing not at all."""
    beating, owners = hearts()[0], [Alike(2.0), Alike(2.0)]
    for owner in owners:
        beating.add(owner, 1.0)
    for now in (1.0, 2.0):
        beating.run(now)
    assert [owner.called_at for owner in owners] == [[1.0, 2.0], [1.0, 2.0]]


def test_an_owner_may_add_others_while_it_is_called():
    """They come with the next tick."""
    beating, late = hearts()[0], Owner()

    class Adding(Owner):
        def beat(self, now):
            beating.add(late, now)

    owner = Adding()
    beating.add(owner, 1.0)
    beating.run(1.0)
    assert late.called_at == []
    beating.run(1.25)
    assert late.called_at == [1.25]


def test_owners_come_from_any_thread():
    """None is lost while the guard's thread works them off."""
    beating, owners = hearts()[0], [[Owner() for _ in range(500)] for _ in range(4)]
    threads = [threading.Thread(target=lambda mine=mine: [beating.add(o, 1.0) for o in mine]) for mine in owners]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        beating.run(1.0)
    for thread in threads:
        thread.join()
    for now in (1.0, 1.25):
        beating.run(now)
    assert {len(owner.called_at) for mine in owners for owner in mine} == {1}


def test_a_forked_child_calls_nobody_that_its_parent_calls():
    """Two processes that ask on one connection would take each other's answers."""
    beating, waiting, added = hearts()[0], Owner(), Owner()
    beating.add(waiting, 1.0)
    beating.run(0.5)
    beating.add(added, 1.0)
    beating.after_fork_in_child()
    beating.run(9.0)
    assert (waiting.called_at, added.called_at, len(beating)) == ([], [], 0)


@given(st.lists(st.tuples(st.integers(0, 80), st.lists(st.integers(0, 80), max_size=4)), max_size=8))
def test_each_is_called_within_one_tick_of_its_wish(wishes):
    """For any owners and any wishes: never before the instant, and less than one tick after the later of it and now."""
    beating = hearts()[0]
    owners = [Owner(*(n / 16 for n in more)) for _, more in wishes]
    for owner, (first, _) in zip(owners, wishes, strict=True):
        beating.add(owner, first / 16)
    for n in range(60):
        beating.run(n * TICK)
    for owner, (first, more) in zip(owners, wishes, strict=True):
        assert len(owner.called_at) == 1 + len(more)
        before = -TICK
        for called_at, wish in zip(owner.called_at, [first, *more], strict=True):
            assert 0 <= called_at - max(wish / 16, before + TICK) < TICK
            before = called_at


def test_only_so_many_beat_at_once_and_the_others_next():
    """In their order: nobody who is due waits for one that fell due after him."""
    beating, owners = hearts()[0], [Owner() for _ in range(5)]
    for owner in owners:
        beating.add(owner, 1.0)
    assert beating.run(10.0, 2)
    late = Owner()
    beating.add(late, 1.0)
    assert [len(owner.called_at) for owner in (*owners, late)] == [1, 1, 0, 0, 0, 0]
    assert beating.run(10.25, 2)
    assert [len(owner.called_at) for owner in (*owners, late)] == [1, 1, 1, 1, 0, 0]
    assert not beating.run(10.5, 2)
    assert [len(owner.called_at) for owner in (*owners, late)] == [1] * 6
