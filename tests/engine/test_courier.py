"""The queue and its short-lived thread: order, bounds, forks, and what becomes of it when it is stuck."""

import logging
import os
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

import sockguard._engine.courier as module
from interpreters import EACH_PYTHON, run_program
from sockguard._engine.courier import MAX_QUEUE, Courier
from sockguard._kernel.natives import native
from waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

NAME = "sockguard-log"


def threads_of_ours() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == NAME]


def n_system_threads() -> int:
    return len(os.listdir("/proc/self/task"))


class Gate:
    """Takes items, and holds the thread up at the first one until it is opened."""

    def __init__(self) -> None:
        self.items: list[object] = []
        self.is_reached, self.is_open = threading.Event(), threading.Event()

    def __call__(self, item: object) -> None:
        self.is_reached.set()
        assert self.is_open.wait(60)
        self.items.append(item)


@pytest.fixture(autouse=True)
def _ends_with_its_threads():
    """Each test ends when its threads have, for Python and for the system. Those of libuv, once used, stay."""
    eventually(lambda: not threads_of_ours())
    before = n_system_threads()
    yield
    eventually(lambda: not threads_of_ours() and n_system_threads() <= before)


@pytest.fixture
def gate():
    """A gate, and it is opened in the end."""
    gate = Gate()
    yield gate
    gate.is_open.set()


def test_items_are_handed_over_in_order_on_a_thread_of_its_own():
    """What is put in comes out in the same order, on a daemon thread that `threading` knows by its name."""
    seen: list[tuple[int, threading.Thread]] = []
    courier = Courier(lambda item: seen.append((item, threading.current_thread())), NAME)
    for n in range(100):
        courier.put(n)
    assert courier.wake()
    assert courier.flush(20.0)
    assert [n for n, _ in seen] == list(range(100))
    assert {(type(thread), thread.name, thread.daemon) for _, thread in seen} == {(threading.Thread, NAME, True)}


def test_thread_ends_with_the_queue():
    """With nothing to hand over there is no thread; with something new there is one again."""
    seen: list[object] = []
    courier = Courier(seen.append, NAME)
    assert courier.wake()
    assert threads_of_ours() == []
    for n in (1, 2):
        courier.put(n)
        courier.wake()
        eventually(lambda n=n: len(seen) == n and not threads_of_ours())


def test_what_comes_while_it_works_is_handed_over_too(gate):
    """An item that is put in during a delivery is not left behind, and no second thread is started for it."""
    courier = Courier(gate, NAME)
    courier.put(1)
    courier.wake()
    assert gate.is_reached.wait(20)
    courier.put(2)
    assert courier.wake()
    assert len(threads_of_ours()) == 1
    gate.is_open.set()
    assert courier.flush(20.0)
    assert gate.items == [1, 2]


def test_nothing_is_left_behind_by_many_threads():
    """Many short bursts from many threads: each item comes out, whenever the thread was about to end."""
    seen: list[object] = []
    courier = Courier(seen.append, NAME)
    lock = threading.Lock()

    def put_some() -> None:
        for n in range(200):
            with lock:
                courier.put(n)
            courier.wake()
            assert courier.n_lost == 0
            if n % 50 == 0:
                courier.flush(20.0)

    threads = [threading.Thread(target=put_some) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert courier.flush(20.0)
    assert len(seen) == 800


def test_what_comes_at_the_last_moment_is_handed_over(monkeypatch):
    """An item that comes when the thread has found the queue empty, and not yet let go, is not left behind."""
    seen: list[object] = []
    courier = Courier(seen.append, NAME)
    lock = native("_thread", "allocate_lock")()

    class Lock:
        """Puts something in at the last moment, once."""

        acquire, locked = lock.acquire, lock.locked

        def release(self) -> None:
            if seen == ["first"]:
                courier.put("late")
                assert courier.wake()
            lock.release()

    monkeypatch.setattr(courier, "_at_work", Lock())
    courier.put("first")
    courier.wake()
    eventually(lambda: seen == ["first", "late"])


def test_full_queue_loses_the_oldest_and_counts_them(gate):
    """While a delivery is stuck, memory stays bounded: the oldest items go, and their number is known."""
    courier = Courier(gate, NAME)
    courier.put("first")
    courier.wake()
    assert gate.is_reached.wait(20)
    for n in range(MAX_QUEUE + 3):
        courier.put(n)
    gate.is_open.set()
    assert courier.flush(20.0)
    assert (courier.n_lost, gate.items) == (3, ["first", *range(3, MAX_QUEUE + 3)])


def test_no_dummy_thread_is_left_behind():
    """Logging on behalf of a bare thread, as the guard's is, leaves nothing in `threading.enumerate()`."""
    handler = logging.NullHandler()
    logger = logging.getLogger("test_no_dummy_thread")
    logger.addHandler(handler)
    courier = Courier(logger.warning, NAME)
    before = threading.enumerate()
    is_done = threading.Event()

    def as_the_guard() -> None:
        courier.put("x")
        courier.wake()
        is_done.set()

    native("_thread", "start_new_thread")(as_the_guard, ())
    assert is_done.wait(20)
    assert courier.flush(20.0)
    assert eventually(lambda: not threads_of_ours())
    assert not {*threading.enumerate()} - {*before}
    logger.removeHandler(handler)


def test_pause_waits_until_the_system_has_no_such_thread():
    """After `pause` the process has no thread of ours, as the kernel counts; what waited comes with the next `wake`."""
    seen: list[object] = []
    courier = Courier(seen.append, NAME)
    before = n_system_threads()
    for n in range(50):
        courier.put(n)
        courier.wake()
        courier.pause()
        assert n_system_threads() == before
        courier.put(-n)
        assert not courier.wake()
        assert not courier.flush(0.0)
        assert n_system_threads() == before
        courier.resume()
        assert n_system_threads() == before
        assert courier.wake()
        assert courier.flush(20.0)
    assert len(seen) == 100


def test_pauses_can_overlap():
    """Two threads that fork at the same time both find the process without our thread."""
    seen: list[object] = []
    courier = Courier(seen.append, NAME)
    courier.pause()
    courier.pause()
    courier.put(1)
    courier.resume()
    assert not courier.wake()
    assert threads_of_ours() == []
    courier.resume()
    assert courier.flush(20.0)


def test_pause_stops_between_two_items(gate):
    """A fork waits for the one delivery that runs, not for the queue; the rest comes after it."""
    courier = Courier(gate, NAME)
    for n in range(3):
        courier.put(n)
    courier.wake()
    assert gate.is_reached.wait(20)
    threading.Timer(0.05, gate.is_open.set).start()
    courier.pause()
    assert (gate.items, threads_of_ours()) == ([0], [])
    courier.resume()
    assert courier.flush(20.0)
    assert gate.items == [0, 1, 2]


@pytest.mark.slow
def test_pause_does_not_wait_for_ever(gate, monkeypatch):
    """A handler that is stuck delays a fork by half a second, not for good."""
    courier = Courier(gate, NAME)
    courier.put(1)
    courier.wake()
    assert gate.is_reached.wait(20)
    monkeypatch.setattr(module, "MAX_PAUSE", 0.5)
    began_at = time.monotonic()
    courier.pause()
    assert time.monotonic() - began_at >= 0.5
    assert gate.items == []  # the gate is shut still
    courier.resume()


def test_pause_within_a_delivery_does_not_wait_for_itself():
    """A listener that forks is not held up by the thread that it runs on."""
    spans: list[float] = []

    def fork(_: object) -> None:
        began_at = time.monotonic()
        courier.pause()
        courier.resume()
        spans.append(time.monotonic() - began_at)

    courier = Courier(fork, NAME)
    courier.put(1)
    courier.wake()
    assert courier.flush(20.0)
    assert spans[0] < 10


def test_flush_gives_up(gate):
    """Flushing waits as long as it was told to, and says that something is left."""
    courier = Courier(gate, NAME)
    courier.put(1)
    assert not courier.flush(0.01)
    gate.is_open.set()
    assert courier.flush(20.0)


def test_flush_within_a_delivery_does_not_wait_for_itself():
    """A listener that flushes gets a plain no."""
    answers: list[bool] = []
    courier = Courier(lambda _: answers.append(courier.flush(20.0)), NAME)
    courier.put(1)
    began_at = time.monotonic()
    assert courier.flush(10.0)
    assert answers == [False]
    assert time.monotonic() - began_at < 5


def test_without_a_thread_the_caller_hands_over(monkeypatch):
    """Where no thread can be had, nothing raises, nothing is lost, and who ends the program does it himself."""
    seen: list[object] = []
    courier = Courier(seen.append, NAME)
    with monkeypatch.context() as patches:
        patches.setattr(threading.Thread, "start", lambda _: (_ for _ in ()).throw(RuntimeError("can't start")))
        courier.put(1)
        assert not courier.wake()
        assert not courier.flush(20.0)
    courier.work_off_here()
    assert seen == [1]
    assert courier.flush(0.0)


def test_a_stuck_thread_is_not_joined_by_the_caller(gate):
    """While a thread is at work, nobody else hands anything over: the order holds, and the caller is not stuck too."""
    courier = Courier(gate, NAME)
    courier.put(1)
    courier.wake()
    assert gate.is_reached.wait(20)
    courier.put(2)
    courier.work_off_here()
    assert gate.items == []


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_delivery_that_raises_does_not_stop_the_rest():
    """Should a delivery raise against the rules, what follows is still handed over."""
    seen: list[object] = []

    def deliver(item: object) -> None:
        seen.append(item)
        if item == 1:
            raise ValueError

    courier = Courier(deliver, NAME)
    for item in (1, 2):
        courier.put(item)
        courier.wake()
        eventually(lambda: not threads_of_ours())
    assert courier.flush(20.0)
    assert seen == [1, 2]


def test_forgetting_leaves_the_queue_to_the_parent():
    """In a forked child the queue is empty, no pause holds, and new items come out."""
    seen: list[object] = []
    courier = Courier(seen.append, NAME)
    courier.pause()
    courier.put("the parent's")
    courier.forget()
    courier.put("the child's")
    courier.wake()
    assert courier.flush(20.0)
    assert seen == ["the child's"]


FORKING = """
import os, sys, time
import sockguard._engine.courier as module
from sockguard._engine.courier import Courier
module.MAX_PAUSE = 20.0
seen = []
courier = Courier(lambda item: (time.sleep(0.0005), seen.append(item)), "sockguard-log")
os.register_at_fork(before=courier.pause, after_in_parent=courier.resume, after_in_child=courier.forget)
for n in range(20):
    courier.put("before")
    courier.put("before")
    courier.wake()
    pid = os.fork()  # warns on 3.12 and newer if there is a thread
    if not pid:
        seen.clear()
        courier.put("child")
        courier.wake()
        os._exit(0 if courier.flush(20.0) and seen == ["child"] else 1)
    assert os.waitpid(pid, 0)[1] == 0
assert courier.flush(20.0) and len(seen) == 40, seen
print("done")
"""


@EACH_PYTHON
@pytest.mark.slow
def test_forks_find_no_thread(python):
    """No version of Python warns of a fork while events are being told, and the child tells its own."""
    assert run_program(python, FORKING) == ["done"]


ENDING = """
import atexit
from sockguard._engine.courier import Courier
courier = Courier(print, "sockguard-log")
def end():
    courier.put("the end")
    if not courier.flush(1.0):
        courier.work_off_here()
atexit.register(end)
"""


@EACH_PYTHON
def test_last_items_come_out_at_the_end_of_the_interpreter(python):
    """At exit, where newer Pythons start no thread any more, what is left still comes out, and at once."""
    began_at = time.monotonic()
    assert run_program(python, ENDING) == ["the end"]
    assert time.monotonic() - began_at < 10


STUCK = """
import time
from sockguard._engine.courier import Courier
courier = Courier(lambda _: time.sleep(3600), "sockguard-log")
courier.put(1)
courier.wake()
print("done")
"""


def test_a_stuck_thread_does_not_keep_the_process_alive():
    """A program ends although a handler of its log hangs."""
    assert run_program(sys.executable, STUCK, timeout=20) == ["done"]


def test_among_greenlets_the_hub_is_asked(monkeypatch):
    """Where threads are greenlets no thread is started, and a fork waits for none, as there is none."""
    seen: list[object] = []
    asked: list[tuple[str, Callable[..., object], tuple[object, ...]]] = []
    monkeypatch.setattr(module, "green_library", lambda: "gevent")
    monkeypatch.setattr(
        module.Hub, "spawn", lambda _, library, f, *args: bool(asked.append((library, f, args))) or True
    )
    courier = Courier(seen.append, NAME)
    courier.put(1)
    assert courier.wake()
    began_at = time.monotonic()
    courier.pause()
    courier.resume()
    assert time.monotonic() - began_at < 10
    ((library, function, arguments),) = asked
    assert (library, seen, threads_of_ours()) == ("gevent", [], [])
    function(*arguments)
    assert seen == [1]
    assert courier.flush(0.0)


GREEN = """
import sys, time
if sys.argv[1] == "gevent":
    from gevent import monkey, sleep, spawn
    monkey.patch_all()
else:
    import eventlet
    from eventlet import sleep, spawn
    eventlet.monkey_patch()
import logging
from sockguard._engine.courier import Courier

class Yielding(logging.Handler):
    def emit(self, record):
        counts[record.name] = counts.get(record.name, 0) + 1
        sleep(0.001)

def busy():
    while True:
        logging.getLogger("program").warning("x")
        sleep(0.001)

def bare():  # as the guard's thread
    for n in range(50):
        courier.put(n)
        courier.wake()
        pause(0.002)

from sockguard._kernel.natives import native
pause = native("time", "sleep")
counts = {}
logging.getLogger().addHandler(Yielding())
courier = Courier(logging.getLogger("ours").warning, "sockguard-log")
for _ in range(3):
    spawn(busy)
native("_thread", "start_new_thread")(bare, ())
deadline = time.monotonic() + 20
while counts.get("ours", 0) < 50 and time.monotonic() < deadline:
    sleep(0.01)
before = counts["program"]
sleep(0.2)
courier.pause()
courier.resume()
assert courier.flush(20.0)
print(counts["ours"], counts["program"] > before)
"""


@pytest.mark.slow
@pytest.mark.parametrize("library", ["gevent", "eventlet"])
def test_greenlets_that_log_are_not_locked_out(library, tmp_path):
    """With gevent or eventlet, the program's own logging goes on however often events are logged beside it."""
    pytest.importorskip(library)
    program = tmp_path / "program.py"
    program.write_text(GREEN)
    script = f"import sys, runpy; sys.argv[1:] = [{library!r}]; runpy.run_path({str(program)!r})"
    assert run_program(sys.executable, script, "-W", "ignore") == ["50 True"]
