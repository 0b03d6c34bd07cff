"""The guard's own thread: there when it is started, gone from the system when it is stopped, and no one's business."""

import contextlib
import os
import signal
import threading
import time

import pytest

from forks import fork, succeeded
from sockguard._engine import driver
from sockguard._engine.courier import Courier
from sockguard._engine.driver import Driver
from sockguard._kernel.signal_masks import SIGNALS
from waiting import eventually

LONG = 3600.0
"""Seconds between ticks: none happens unless it is woken."""


def tasks() -> set[str]:
    """Lists the threads that the system knows of."""
    return set(os.listdir("/proc/self/task"))


@pytest.fixture
def ticks():
    """The instants of the ticks."""
    return []


@pytest.fixture
def make(ticks):
    """Makes drivers that are stopped at the end."""
    made: list[Driver] = []

    def make(every=LONG, tick=None):
        made.append(Driver(tick or ticks.append, every))
        return made[-1]

    yield make
    for one in made:
        one.stop()


def test_it_ticks_by_the_monotonic_clock(make, ticks):
    """Again and again, each time with the time."""
    before = time.monotonic()
    make(0.001).start()
    eventually(lambda: len(ticks) >= 3)
    assert before < ticks[0] < ticks[1] < ticks[2] < time.monotonic()


def test_it_does_nothing_before_it_is_started(make, ticks):
    """To make one costs no thread."""
    before = tasks()
    made = make(0.001)
    made.wake()
    made.stop()
    assert (made.is_running, tasks() - before, ticks) == (False, set(), [])


def test_the_thread_is_there_after_start_and_gone_after_stop(make):
    """For the system, not only for Python: a fork must find one thread. A hundred times, as it is a matter of luck."""
    before, made = tasks(), make()
    for _ in range(100):
        made.start()
        assert len(tasks() - before) == 1
        assert made.is_running
        made.stop()
        assert not tasks() - before
        assert not made.is_running


def test_start_and_stop_may_be_repeated(make):
    """A second start() makes no second thread, and a second stop() waits for nobody."""
    before, made = tasks(), make()
    made.start()
    made.start()
    assert len(tasks() - before) == 1
    made.stop()
    made.stop()
    assert not tasks() - before


def test_waking_brings_the_next_tick_now(make, ticks):
    """From any thread, at once; it may be repeated, and is forgotten once it has worked."""
    made = make()
    made.start()
    for count in (1, 2, 3):
        made.wake()
        made.wake()
        eventually(lambda count=count: len(ticks) >= count)
    eventually(made._sleep.locked)  # noqa: SLF001 - it sleeps again
    n_ticks = len(ticks)
    assert 3 <= n_ticks <= 6


def test_stop_does_not_wait_for_the_next_tick(make, ticks):
    """Nor does it make one."""
    made = make()
    made.start()
    made.stop()
    assert ticks == []


def test_a_tick_that_takes_long_delays_a_stop_only_so_far(make, monkeypatch):
    """A fork must not hang on us; the old thread then ends by itself, also if a new one was started meanwhile."""
    gate, begun = threading.Event(), threading.Event()

    def tick(_):
        begun.set()
        gate.wait(30)

    before, made = tasks(), make(0.001, tick)
    made.start()
    assert begun.wait(20)
    with monkeypatch.context() as patch:
        patch.setattr(driver, "MAX_WAIT", 0.05)
        made.stop()
    assert len(tasks() - before) == 1
    made.start()
    assert len(tasks() - before) == 2
    gate.set()
    eventually(lambda: len(tasks() - before) == 1)
    made.stop()
    assert not tasks() - before


def test_the_thread_takes_no_signal_of_the_programs(make):
    """All are blocked there but those of a fault, which come to the thread that caused it."""
    masks: list[set[int]] = []
    made = make(0.001, lambda _: masks.append(signal.pthread_sigmask(signal.SIG_BLOCK, ())))
    made.start()
    eventually(lambda: masks)
    assert masks[0] >= SIGNALS - {signal.SIGKILL, signal.SIGSTOP}
    assert not masks[0] & {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT}


@pytest.fixture
def delivered():
    """The signals that are blocked where something is handed over, each time."""
    return []


@pytest.fixture
def tells(make, delivered):
    """A driver whose ticks have something handed over."""
    courier = Courier(lambda _: delivered.append(signal.pthread_sigmask(signal.SIG_BLOCK, ())), "sockguard-log")
    made = make(0.001, lambda _: courier.put(None) or courier.wake())
    yield made
    made.stop()
    assert courier.flush(20.0)
    eventually(lambda: not [thread for thread in threading.enumerate() if thread.name == "sockguard-log"])


@contextlib.contextmanager
def blocked(*signals):
    """Blocks signals in this thread for a while."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def test_a_thread_that_it_starts_takes_the_signals_that_the_programs_take(tells, delivered):
    """What a log handler starts there inherits that: all blocked, it could not be terminated."""
    with blocked(signal.SIGUSR1):
        expected = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        tells.start()
        eventually(lambda: delivered)
    assert delivered[0] == expected


def test_a_thread_that_it_starts_blocks_what_the_main_thread_blocks_by_now(tells, delivered):
    """A program that has begun to take a signal by sigwait() is not killed by it there."""
    tells.start()
    with blocked(signal.SIGUSR2):
        assert eventually(lambda: delivered and signal.SIGUSR2 in delivered[-1])
    assert eventually(lambda: signal.SIGUSR2 not in delivered[-1])


def test_a_fork_with_all_signals_blocked_changes_nothing_of_that(tells, delivered):
    """Some block them while they fork, and that is the thread that has ours go on."""
    tells.start()
    tells.pause()
    with blocked(*SIGNALS):
        tells.resume()
    delivered.clear()
    assert eventually(lambda: delivered and signal.SIGTERM not in delivered[-1])


def test_threading_does_not_list_it_even_if_a_finalizer_asks(make):
    """What makes a dummy thread of ours, by asking who it is, leaves none behind."""
    listed, seen = threading.enumerate(), []
    made = make(0.001, lambda _: seen.append(threading.current_thread()))
    made.start()
    eventually(lambda: len(seen) > 2)
    made.stop()
    assert not {*threading.enumerate()} - {*listed}


def test_no_thread_to_be_had_is_an_error_and_can_be_tried_again(make, monkeypatch, ticks):
    """It says so, and is not taken to run."""

    def refuse(*_):
        raise RuntimeError("can't start new thread")

    made = make(0.001)
    with monkeypatch.context() as patch:
        patch.setattr(driver, "_start_thread", refuse)
        with pytest.raises(RuntimeError, match="can't start"):
            made.start()
    assert not made.is_running
    made.start()
    assert eventually(lambda: ticks)


def test_a_forked_child_starts_its_own(make, ticks):
    """The thread does not come along: forgotten, it can be started there without waiting for the one of the parent."""
    made = make(0.001)
    made.start()
    eventually(lambda: ticks)
    made.stop()

    def works_in_child() -> bool:
        made.forget()
        ticks.clear()
        made.start()
        eventually(lambda: len(ticks) >= 2)
        made.stop()
        return len(tasks()) == 1

    child = fork(works_in_child)
    made.start()
    assert succeeded(child)
    n_before = len(ticks)
    assert eventually(lambda: len(ticks) > n_before)


def test_pauses_can_overlap(make):
    """Two threads that fork at once each pause it, and the one that is done first must not find it stopped for ever."""
    before, made = tasks(), make()
    made.start()
    made.pause()
    made.pause()
    made.resume()
    assert (made.is_running, tasks() - before) == (False, set())
    made.resume()
    assert (made.is_running, len(tasks() - before)) == (True, 1)


def test_a_second_pause_waits_until_the_thread_is_gone(make, monkeypatch):
    """As the first one does: whoever comes back from it may fork."""
    begun, gate = threading.Event(), threading.Event()
    monkeypatch.setattr(driver, "MAX_WAIT", 60.0)
    before, made = tasks(), make(0.001, lambda _: begun.set() or gate.wait(60))
    made.start()
    assert begun.wait(20)
    (thread_of_ours,) = tasks() - before
    found: list[bool] = []

    def pause():
        made.pause()
        found.append(thread_of_ours in tasks())

    threads = [threading.Thread(target=pause) for _ in range(2)]
    for thread in threads:
        thread.start()
    eventually(lambda: not made.is_running)
    assert found == []
    gate.set()
    for thread in threads:
        thread.join()
    assert found == [False, False]


def test_what_did_not_run_before_a_pause_does_not_run_after_it(make):
    """One that a selector drives has no thread to go on with."""
    made = make()
    made.pause()
    made.resume()
    assert not made.is_running


def test_what_is_started_in_a_pause_runs_after_it(make):
    """A thread that installs the guard while another one forks: the fork finds no thread, and it begins after it."""
    before, made = tasks(), make()
    made.pause()
    made.start()
    assert not tasks() - before
    made.resume()
    assert made.is_running


def test_what_is_stopped_in_a_pause_stays_stopped(make):
    """The end of the guard is not undone by a fork that began before it."""
    made = make()
    made.start()
    made.pause()
    made.stop()
    made.resume()
    assert not made.is_running


def test_a_child_waits_for_no_thread_that_was_about_to_fork(make):
    """It alone is in the child: no other one will resume there what it has paused, nor let go of what it has locked."""
    made = make()
    made.start()
    made.pause()
    made.pause()

    def goes_on_in_child() -> bool:
        made.forget()
        made.resume()
        is_running = made.is_running
        made.stop()
        return is_running

    with held(made._changing):  # noqa: SLF001
        child = fork(goes_on_in_child)
    assert succeeded(child)
    made.resume()
    made.resume()
    assert made.is_running


@contextlib.contextmanager
def held(lock):
    """Has another thread hold a lock."""
    is_held, is_over = threading.Event(), threading.Event()

    def hold():
        with lock:
            is_held.set()
            is_over.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    assert is_held.wait(60)
    yield
    is_over.set()
    thread.join()


def test_without_proc_stopping_waits_for_the_last_word_of_the_thread(make, monkeypatch):
    """Where the system does not list its threads, a tick that goes on is still seen to its end."""

    def refuse(_):
        raise FileNotFoundError

    monkeypatch.setattr(driver, "_stat", refuse)
    begun, ended = threading.Event(), []

    def tick(_):
        begun.set()
        time.sleep(0.05)
        ended.append(time.monotonic())

    made = make(0.001, tick)
    made.start()
    assert begun.wait(20)
    made.stop()
    n_ended = len(ended)
    assert n_ended
    assert not begun.clear()
    assert not begun.wait(0.1)
    assert len(ended) == n_ended
