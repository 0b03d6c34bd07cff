"""Event loops that do not come round are told of with the line that blocks them; idle ones never."""

import asyncio
import gc
import inspect
import threading

import pytest

from guarded import driven
from sockguard._engine.stalls import STALL_AFTER, StallWatch, thread_name, where_is
from waiting import eventually


class Running:
    """A loop in a thread of its own."""

    def __init__(self):
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, name="looping")
        self.thread.start()
        self.gate = threading.Event()

    def watched_by(self, watch):
        """Has a watch meet the loop on its own thread, as adopt() does."""

        async def meet():
            return watch.loop_ref(asyncio.get_running_loop())

        return asyncio.run_coroutine_threadsafe(meet(), self.loop).result(10)

    def block(self):
        """Blocks the loop until the gate opens."""
        blocked = threading.Event()

        def callback():
            blocked.set()
            self.gate.wait(30)

        self.loop.call_soon_threadsafe(callback)
        assert blocked.wait(10)

    def end(self):
        self.gate.set()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)
        self.loop.close()


@pytest.fixture
def running():
    made = Running()
    yield made
    made.end()


def test_a_blocked_loop_is_told_once_with_its_line(running):
    """Since when, in which thread, and the stack, innermost call first."""
    watch = StallWatch()
    ref = running.watched_by(watch)
    running.block()
    assert list(watch.check(100)) == []
    assert list(watch.check(100 + STALL_AFTER)) == []
    [stall] = watch.check(102.5)
    assert (stall.loop, stall.thread, stall.seconds) == (ref, "looping", 2.5)
    line = inspect.getsource(Running).splitlines().index("            self.gate.wait(30)")
    number = inspect.getsourcelines(Running)[1] + line
    assert any(where.endswith(f"test_stalls.py:{number} in callback") for where in stall.where)
    assert list(watch.check(200)) == []
    assert watch.stalled() == [ref]
    running.gate.set()
    eventually(lambda: not watch.stalled())


def test_a_loop_that_stalls_again_is_told_again(running):
    """Once for each time."""
    watch = StallWatch()
    ref = running.watched_by(watch)
    for now in (100.0, 200.0):
        running.gate.clear()
        running.block()
        assert list(watch.check(now)) == []
        assert len(list(watch.check(now + 5))) == 1
        running.gate.set()
        eventually(lambda: ref.asked_at is None)


def test_an_idle_loop_is_never_told(running):
    """It has nothing to do, and answers at once."""
    watch = StallWatch()
    ref = running.watched_by(watch)
    for now in range(100, 200, 2):
        assert list(watch.check(now)) == []
        eventually(lambda: ref.asked_at is None)
        assert ref.answered_at == now


def test_it_is_not_asked_more_than_once_a_second(running):
    """One call_soon_threadsafe() wakes the loop up, so it must be rare."""
    watch = StallWatch()
    ref = running.watched_by(watch)
    list(watch.check(100))
    eventually(lambda: ref.asked_at is None)
    list(watch.check(100.5))
    assert (ref.asked_at, ref.answered_at) == (None, 100)


def test_a_loop_that_is_not_running_is_not_stalled():
    """Between two run_until_complete() it gives no sign of life, and nobody waits for one."""
    watch, loop = StallWatch(), asyncio.new_event_loop()
    watch.loop_ref(loop)
    for now in range(100, 110):
        assert list(watch.check(now)) == []
    loop.close()
    assert list(watch.check(200)) == []
    assert watch.stalled() == []


def test_a_loop_that_is_gone_is_dropped():
    """It is not kept alive, and another one at the same place in memory is another one."""
    watch, loop = StallWatch(), asyncio.new_event_loop()
    ref = watch.loop_ref(loop)
    assert watch.loop_ref(loop) is ref
    loop.close()
    del loop
    gc.collect()
    assert ref.ref() is None
    assert list(watch.check(100)) == []
    assert watch._loops == {}  # noqa: SLF001


class Closing:
    """A loop that is closed right after it was asked whether it is."""

    def is_closed(self):
        return False

    def is_running(self):
        return True

    def call_soon_threadsafe(self, _):
        raise RuntimeError("Event loop is closed")


def test_a_loop_that_is_closed_meanwhile_is_no_stall():
    """The refusal is no error of ours."""
    watch, loop = StallWatch(), Closing()
    ref = watch.loop_ref(loop)
    assert list(watch.check(100)) == []
    assert list(watch.check(200)) == []
    assert ref.asked_at is None


def test_another_loop_at_the_same_address_is_another_one():
    """An id is no identity."""
    watch, first, second = StallWatch(), Closing(), Closing()
    ref = watch.loop_ref(first)
    watch._loops[id(second)] = ref  # noqa: SLF001 - as if `first` had been there
    assert watch.loop_ref(second).ref() is second


def test_loops_of_the_parent_are_forgotten():
    """In a forked child they do not run."""
    watch, loop = StallWatch(), Closing()
    watch.loop_ref(loop)
    watch.forget()
    assert list(watch.check(100)) == []
    assert watch._loops == {}  # noqa: SLF001


def test_the_guard_tells_of_it(running):
    """An event with seconds, thread and line; the loop of a connection that was adopted there is watched."""
    with driven() as d:
        running.watched_by(d.guard.stalls)
        running.block()
        for _ in range(4):
            d.tick(1.5)
        [event] = d.told("loop_stalled")
        assert event.fields["thread"] == "looping"
        assert any("test_stalls.py" in where for where in event.fields["where"])


def test_a_thread_is_named_as_threading_knows_it():
    """One that it does not know has its number, and no stand-in is made for it."""
    assert thread_name(threading.get_ident()) == threading.current_thread().name
    listed = threading.enumerate()
    assert thread_name(1) == "1"
    assert not {*threading.enumerate()} - {*listed}


def test_a_thread_that_has_ended_is_nowhere():
    """Its stack is empty; that of a deep one is cut."""

    def deep(n):
        return deep(n - 1) if n else where_is(threading.get_ident())

    assert where_is(1) == ()
    assert len(deep(50)) == 12
    assert deep(0)[0].endswith(" in deep")
