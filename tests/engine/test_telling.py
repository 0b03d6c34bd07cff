"""Who is told of which event, and that no output, listener or caller can do harm."""

import os
import sys
import threading

import pytest

from interpreters import EACH_PYTHON, run_program
from sockguard._core.events import Event, EventName, make_event
from sockguard._engine.courier import MAX_QUEUE
from sockguard._engine.telling import MAX_TEXT, Teller

LEAK, FAILED = EventName.LEAK_DETECTED, EventName.GUARD_FAILED


def leak(fd: int = 3, site: object = "a") -> Event:
    return make_event(LEAK, site=site, fd=fd)


class Output:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.threads: set[threading.Thread] = set()
        self.is_closed = False
        self.is_wanted = True

    def wants(self, _: Event) -> bool:
        return self.is_wanted

    def emit(self, event: Event) -> None:
        self.events.append(event)
        self.threads.add(threading.current_thread())

    def close(self) -> None:
        self.is_closed = True


class Broken(Output):
    """Fails in one of its methods: at each call, or at the first one only."""

    def __init__(self, method: str, *, once: bool = False) -> None:
        super().__init__()
        self._once = once
        setattr(self, method, self._fail)

    def _fail(self, *_: object) -> None:
        if self._once:
            del self.emit
        msg = "disk full"
        raise OSError(msg)


@pytest.fixture
def output() -> Output:
    return Output()


@pytest.fixture
def teller(output):
    """A teller to one output, with a period of ten seconds."""
    teller = Teller([output], period=10.0)
    yield teller
    assert teller.flush(20.0)


def names(events: list[Event]) -> list[EventName]:
    return [event.name for event in events]


def test_events_reach_the_output_on_another_thread(teller, output):
    """An event that is told reaches the output, and not on the thread of the caller."""
    teller.tell(leak(), 1.0)
    assert teller.flush(20.0)
    assert output.events == [leak()]
    assert {thread.name for thread in output.threads} == {"sockguard-log"}


def test_rate_is_limited_and_nothing_is_lost(teller, output):
    """The outputs are told once per period; the others are counted, and told by the tick when it is over."""
    for n in range(5):
        teller.tell(leak(fd=n), float(n))
    teller.tick(9.9)
    assert teller.flush(20.0)
    assert output.events == [leak(fd=0)]
    teller.tick(10.0)
    assert teller.flush(20.0)
    assert [(e.fields["fd"], e.fields.get("suppressed")) for e in output.events] == [(0, None), (4, 3)]


def test_listeners_are_told_each_event(teller, output):
    """A listener gets every event, however many, in their order and on the thread of the outputs."""
    heard: list[tuple[Event, str]] = []
    teller.add_listener(lambda event: heard.append((event, threading.current_thread().name)))
    for n in range(5):
        teller.tell(leak(fd=n), float(n))
    assert teller.flush(20.0)
    assert heard == [(leak(fd=n), "sockguard-log") for n in range(5)]
    assert len(output.events) == 1


def test_listener_that_is_removed_hears_no_more(teller):
    """Removing a listener ends it; removing one that is not there is no error."""
    heard: list[Event] = []
    listener = heard.append
    teller.add_listener(listener)
    teller.remove_listener(listener)
    teller.remove_listener(listener)
    teller.tell(leak(), 0.0)
    assert teller.flush(20.0)
    assert heard == []


def test_recent_events_are_kept_with_their_instants(teller):
    """The dump shows the last events that were told: a thousand, the oldest first."""
    for n in range(MAX_QUEUE + 2):
        teller.tell(leak(site=n), float(n))
        assert n % 100 or teller.flush(20.0)  # a full queue would tell of what it dropped
    assert len(teller.recent) == MAX_QUEUE
    assert (teller.recent[0], teller.recent[-1]) == ((2.0, leak(site=2)), (MAX_QUEUE + 1.0, leak(site=MAX_QUEUE + 1)))


def test_without_anybody_to_tell_there_is_no_thread(teller, output, monkeypatch):
    """With no listener, and outputs that nobody would see, no thread is started; the dump has the event still."""
    monkeypatch.setattr(threading.Thread, "start", lambda _: pytest.fail("a thread was started"))
    output.is_wanted = False
    teller.tell(leak(), 0.0)
    assert [event for _, event in teller.recent] == [leak()]


def test_output_that_no_longer_wants_an_event_is_spared(teller, output):
    """Whether anybody would see it is asked again when the event is handed over."""
    teller.pause()
    teller.tell(leak(), 0.0)
    output.is_wanted = False
    teller.resume()
    assert teller.flush(20.0)
    assert output.events == []


@pytest.mark.parametrize("method", ["wants", "emit"])
def test_output_that_raises_is_told_of_once_and_taken_out(method, output):
    """A broken output does not silence the others; they tell of it once, and it is called no more."""
    broken = Broken(method)
    teller = Teller([broken, output], period=10.0)
    for n in range(3):
        teller.tell(leak(site=n), 0.0)
    assert teller.flush(20.0)
    assert sorted(names(output.events)) == [FAILED, LEAK, LEAK, LEAK]
    (failure,) = [event for event in output.events if event.name is FAILED]
    assert failure.fields == {
        "where": f"Output {__name__}.Broken",
        "error": "OSError: disk full",
        "outcome": "It is called no more.",
        "pid": os.getpid(),
    }
    assert failure in [event for _, event in teller.recent]


def test_output_that_fails_at_one_event_tells_of_its_own_end():
    """An output that stumbled over one event can still say that it is taken out."""
    stumbling = Broken("emit", once=True)
    teller = Teller([stumbling])
    teller.tell(leak(), 0.0)
    teller.tell(leak(site="b"), 0.0)
    assert teller.flush(20.0)
    assert names(stumbling.events) == [FAILED]


def test_listener_that_raises_is_told_of_once_and_taken_out(teller, output):
    """A listener that raises hears nothing more, and the log says so once; the other listeners hear all."""
    heard: list[Event] = []

    def careless(event: Event) -> None:
        raise KeyError(event.name)

    teller.add_listener(careless)
    teller.add_listener(heard.append)
    teller.tell(leak(), 0.0)
    teller.tell(leak(site="b"), 0.0)
    assert teller.flush(20.0)
    assert sorted(names(heard)) == [FAILED, LEAK, LEAK]
    (failure,) = [event for event in output.events if event.name is FAILED]
    where = f"Listener {__name__}.test_listener_that_raises_is_told_of_once_and_taken_out.<locals>.careless"
    assert failure.message.startswith(f"{where} raised KeyError: ")


def test_listener_that_removes_itself_and_raises_is_no_trouble(teller, output):
    """A listener may take itself out, whatever it does next."""

    def shy(_: Event) -> None:
        teller.remove_listener(shy)
        raise ValueError

    teller.add_listener(shy)
    teller.tell(leak(), 0.0)
    assert teller.flush(20.0)
    assert sorted(names(output.events)) == [FAILED, LEAK]


def test_listeners_that_all_raise_are_all_taken_out(teller, output):
    """When several fail, each is told of, and the telling of one does not bring the others back."""

    class Careless:
        def __call__(self, _: Event) -> None:
            raise ValueError(self)

    for _ in range(3):
        teller.add_listener(Careless())
    teller.tell(leak(), 0.0)
    assert teller.flush(20.0)
    assert sorted(names(output.events)) == [FAILED, FAILED, FAILED, LEAK]
    name = "test_listeners_that_all_raise_are_all_taken_out.<locals>.Careless"
    assert {e.fields["where"] for e in output.events if e.name is FAILED} == {f"Listener {__name__}.{name}"}


def test_text_of_an_exception_is_cut(teller, output):
    """What a listener raises may hold all that it worked on; only the beginning of its text is told, if it has one."""

    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    def raising(error: Exception):
        def listener(_: Event) -> None:
            raise error

        return listener

    teller.add_listener(raising(ValueError("x" * 1000)))
    teller.add_listener(raising(Mute()))
    teller.tell(leak(), 0.0)
    assert teller.flush(20.0)
    texts = [event.fields["error"] for event in output.events if event.name is FAILED]
    assert sorted(texts) == ["Mute", "ValueError: " + "x" * (MAX_TEXT - len("ValueError: "))]


def test_an_event_that_cannot_be_limited_does_no_harm(teller, output):
    """An event of ours with a site that cannot be hashed is told of as a failure, and raises nothing."""
    teller.tell(leak(site=[]), 0.0)
    teller.tell(leak(), 0.0)
    assert teller.flush(20.0)
    assert names(output.events) == [FAILED, LEAK]
    assert output.events[0].fields["outcome"] == "One event is not in the log."


def test_telling_while_telling_is_no_deadlock(output):
    """A signal handler, or the garbage collector, may tell an event in the very moment when one is being told."""
    teller = Teller([output])
    is_first = [True]

    class Nested:
        """A site whose hash is asked for in the midst of `tell`."""

        def __hash__(self) -> int:
            if is_first:
                is_first.pop()
                teller.tell(leak(site="nested"), 0.0)
            return 1

    teller.tell(leak(site=Nested()), 0.0)
    assert teller.flush(20.0)
    assert len(output.events) == 2


def test_many_threads_tell_at_once(output):
    """Whoever tells, and while whoever else does: each event is told, or counted by one that is."""
    teller = Teller([output], period=3600.0)

    def tell_many() -> None:
        for n in range(300):
            teller.tell(leak(fd=n), 0.0)

    threads = [threading.Thread(target=tell_many) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    teller.close(20.0)
    assert sum(1 + (event.fields.get("suppressed") or 0) for event in output.events) == 1200


def test_lost_events_are_told_of(output):
    """When a handler was stuck for so long that events were lost, it is told how many, once it works again."""
    is_reached, is_open = threading.Event(), threading.Event()
    teller = Teller([output])

    def stuck(_: Event) -> None:
        is_reached.set()
        assert is_open.wait(10)

    teller.add_listener(stuck)
    teller.tell(leak(site=0), 0.0)
    assert is_reached.wait(20)
    teller.remove_listener(stuck)
    for n in range(1, MAX_QUEUE + 3):
        teller.tell(leak(site=n), 0.0)
    is_open.set()
    assert teller.flush(20.0)
    (failure,) = [event for event in output.events if event.name is FAILED]
    assert failure.fields["error"] == "TimeoutError: 3 events were lost, as a log handler or listener took too long"
    assert len(output.events) == MAX_QUEUE + 1


def test_closing_tells_the_rest_and_closes_the_outputs(teller, output):
    """At the end, what the limit withheld is told, and the outputs are closed, though one of them cannot be."""
    broken = Broken("close")
    teller = Teller([broken, output], period=10.0)
    teller.tell(leak(fd=1), 0.0)
    teller.tell(leak(fd=2), 0.0)
    teller.close(20.0)
    assert [event.fields["fd"] for event in output.events] == [1, 2]
    assert output.is_closed


def test_closing_without_an_event_is_no_error(output):
    """A guard that saw nothing can be closed; what another thread has stuck is not waited for beyond the time-out."""
    Teller([output]).close()
    assert output.is_closed


def test_closing_without_a_thread_tells_all_the_same(output, monkeypatch):
    """At the end of the interpreter no thread can be had: whoever closes hands over by itself."""
    monkeypatch.setattr(threading.Thread, "start", lambda _: (_ for _ in ()).throw(RuntimeError))
    teller = Teller([output])
    teller.tell(leak(), 0.0)
    teller.close(20.0)
    assert output.events == [leak()]
    assert output.threads == {threading.current_thread()}


def test_child_begins_anew(teller, output):
    """After a fork the child neither repeats what is its parent's to tell, nor is its own limit used up."""
    teller.tell(leak(), 0.0)
    assert teller.flush(20.0)
    teller.pause()
    teller.tell(leak(site="the parent's"), 0.0)
    teller.after_fork_in_child()
    assert teller.recent == []
    teller.tell(leak(), 1.0)
    assert teller.flush(20.0)
    assert output.events == [leak(), leak()]


FORKING = """
import os, sys, threading
from sockguard._core.events import EventName, make_event
from sockguard._engine.telling import Teller

class Log:
    events = []
    def wants(self, event): return True
    def emit(self, event): self.events.append(event.site)
    def close(self): pass

log = Log()
import sockguard._engine.courier as courier
courier.MAX_PAUSE = 20.0
teller = Teller([log])
os.register_at_fork(before=teller.pause, after_in_parent=teller.resume, after_in_child=teller.after_fork_in_child)
for n in range(20):
    for m in range(5):
        teller.tell(make_event(EventName.LEAK_DETECTED, site=(n, m)), 0.0)
    pid = os.fork()
    if not pid:
        log.events.clear()
        teller.tell(make_event(EventName.LEAK_DETECTED, site="child"), 0.0)
        teller.close(20.0)
        os._exit(0 if log.events == ["child"] else 1)
    assert os.waitpid(pid, 0)[1] == 0
teller.close(20.0)
assert log.events == [(n, m) for n in range(20) for m in range(5)], log.events
print(len(threading.enumerate()))
"""


@EACH_PYTHON
@pytest.mark.slow
def test_forks_neither_warn_nor_lose_nor_repeat(python):
    """On every version: a fork while events are told brings no warning, each event is told once, by whom it is of."""
    assert run_program(python, FORKING) == ["1"]


SIGNALS = """
import signal, sys
from sockguard._core.events import EventName, make_event
from sockguard._engine.telling import Teller

class Log:
    n = 0
    def wants(self, event): return True
    def emit(self, event): self.n += 1 + event.fields.get("suppressed", 0)
    def close(self): pass

def tell(*_):
    global n_told
    n_told += 1
    teller.tell(make_event(EventName.LEAK_DETECTED), 0.0)

n_told, log = 0, Log()
teller = Teller([log])
signal.signal(signal.SIGALRM, tell)
signal.setitimer(signal.ITIMER_REAL, 0.0002, 0.0002)
for _ in range(20000):
    n_told += 1
    teller.tell(make_event(EventName.LEAK_DETECTED), 0.0)
signal.setitimer(signal.ITIMER_REAL, 0)
teller.close(20.0)
print(n_told > 20000, log.n == n_told or (log.n, n_told))
"""


@pytest.mark.slow
def test_signals_may_tell_at_any_moment():
    """Signals that interrupt `tell` and tell something themselves neither hang it nor lose anything."""
    assert run_program(sys.executable, SIGNALS) == ["True True"]
