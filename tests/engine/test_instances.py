"""Objects are found by their class, and nobody else's work is disturbed meanwhile."""

import threading

from sockguard._engine.instances import instances_of


class Wanted:
    pass


class Derived(Wanted):
    pass


class Other:
    """Says that it is what it is not."""

    __class__ = Wanted


def test_all_objects_of_a_class_are_found():
    """And those of classes derived from it; what only says so is not."""
    made = [Wanted(), Derived(), Other()]
    assert sorted(map(id, instances_of(Wanted))) == sorted(map(id, made[:2]))


def test_nothing_is_found_of_a_class_without_objects():
    """Though its module, its methods and its bases refer to it."""
    assert instances_of(Other) == []


class Hashed(type):
    """Classes that do something when they are looked for in a set: while all objects found are gone through."""

    n_times = 0

    def __hash__(cls):
        Hashed.n_times += 1
        if Hashed.n_times == 2:  # the first one is before the search
            cls.meanwhile()
        return type.__hash__(cls)


def test_a_tuple_that_another_thread_is_filling_stays_its_own():
    """CPython raises SystemError in that thread if anybody else has it by then, as gc.get_objects() would."""
    begun, may_go_on, made = threading.Event(), threading.Event(), []

    def numbers():
        begun.set()
        yield may_go_on.wait(10)

    def is_cut():
        may_go_on.set()
        thread.join()

    thread = threading.Thread(target=lambda: made.append(tuple(numbers())))
    kind = Hashed("kind", (), {"meanwhile": staticmethod(is_cut)})
    kept = kind()
    thread.start()
    assert begun.wait(10)
    Hashed.n_times = 0
    assert (instances_of(kind), made) == ([kept], [(True,)])
