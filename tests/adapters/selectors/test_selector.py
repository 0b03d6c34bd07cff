"""GuardedSelector: a selector as any other, which ends what its handlers leave open, and needs no thread."""

import asyncio
import contextlib
import gc
import itertools
import os
import selectors
import socket
import sys
import threading
import time
import weakref

import pytest

from loopback import listen, reset
from sockguard._core.left_open import LOOKS
from sockguard._core.policy import Policy
from sockguard._engine import current
from sockguard._engine.guard import Guard
from sockguard._kernel.backend import KERNEL_KEEPS_BOOKS
from sockguard._kernel.unread import count_unread
from sockguard.adapters.selectors.selector import GuardedSelector
from sockguard.adapters.socket import guard_socket
from sockguard.errors import UsageError
from waiting import eventually

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
INNER = [
    getattr(selectors, name)
    for name in ("EpollSelector", "PollSelector", "SelectSelector", "KqueueSelector")
    if hasattr(selectors, name)
]


class Scene:
    """A guard that nobody but a selector drives, and connections."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self.stack = stack
        self.events = []
        self.guard = Guard(Policy(), lambda event, _: self.events.append(event))
        stack.callback(self.guard.stop)

    def selector(self, inner=None, **policy) -> GuardedSelector:
        """Makes a selector with a policy of its own, if fields of one are given."""
        made = GuardedSelector(inner and inner(), Policy(**policy) if policy else None)
        return self.stack.enter_context(made)

    def connect(self, family=socket.AF_INET) -> tuple[socket.socket, socket.socket]:
        """Makes a connection: the peer's end and ours, which does not block."""
        if family == socket.AF_UNIX:
            peer, ours = socket.socketpair()
        else:
            listener = self.stack.enter_context(listen())
            peer = socket.create_connection(listener.getsockname())
            ours, _ = listener.accept()
        ours.setblocking(False)
        self.stack.callback(ours.close)
        self.stack.callback(peer.close)
        return peer, ours

    def told(self, name: str = "connection_closed") -> list:
        """Lists what was told; a failure of the guard's own fails the test."""
        failures = [event.message for event in self.events if event.name == "guard_failed"]
        assert name == "guard_failed" or failures == []
        return [event for event in self.events if event.name == name]


@pytest.fixture
def scene(monkeypatch):
    """A guard of this test's own in the place of the process's."""
    with contextlib.ExitStack() as stack:
        made = Scene(stack)
        monkeypatch.setattr(current, "_make", lambda thread: made.guard)
        yield made
        made.told()


@pytest.fixture(params=INNER, ids=lambda kind: kind.__name__)
def inner(request):
    """Each selector that there is here."""
    return request.param


def turn(selector, handle, *, until, seconds=20.0, timeout=0.05) -> int:
    """Runs an event loop until a condition holds; gives how many events it was told."""
    give_up_at, n_told = time.monotonic() + seconds, 0
    while not until():
        assert time.monotonic() < give_up_at, f"still not so after {seconds} s and {n_told} events"
        for key, events in selector.select(timeout):
            n_told += 1
            handle(key, events)
    return n_told


def ignore(key, events):
    """Handles an event by doing nothing."""


def read(key, events):
    """Reads what there is, and does nothing about its end."""
    with contextlib.suppress(OSError):
        key.fileobj.recv(65536)


def count_rounds(selector, handle, seconds, *, at_least=0) -> int:
    """Counts the events of an event loop in some time, or in up to 20 s more until there are so many."""
    until_at, n_told = time.monotonic() + seconds, 0
    while (now := time.monotonic()) < until_at or (n_told < at_least and now < until_at + 20):
        for key, events in selector.select(0.05):
            n_told += 1
            handle(key, events)
    return n_told


# --- As any other selector (more of that: CPython's own tests, tools/conformance_shim/) ---


def test_it_is_a_selector(scene, inner):
    """What is registered, found, changed and unregistered is so as with the inner one."""
    _, ours = scene.connect()
    theirs, guarded = inner(), scene.selector(inner)
    for selector in (theirs, guarded):
        assert isinstance(selector, selectors.BaseSelector)
        key = selector.register(ours, READ, "data")
        assert key == (ours, ours.fileno(), READ, "data") == selector.get_key(ours) == selector.get_map()[ours]
        assert selector.modify(ours, WRITE, "more") == (ours, ours.fileno(), WRITE, "more")
        assert selector.select() == [(selector.get_key(ours), WRITE)]
        assert list(selector.get_map()) == [ours.fileno()] and len(selector.get_map()) == 1
        assert selector.unregister(ours).data == "more"
        selector.close()
        assert selector.get_map() is None
    assert hasattr(theirs, "fileno") == hasattr(guarded, "fileno")


@pytest.mark.parametrize(
    "act",
    [
        lambda s, sock: s.register(sock, 0),
        lambda s, sock: s.register(object(), READ),
        lambda s, sock: s.register(-10, READ),
        lambda s, sock: [s.register(sock, READ), s.register(sock.fileno(), READ)],
        lambda s, sock: s.unregister(sock),
        lambda s, sock: s.modify(sock, READ),
        lambda s, sock: s.get_key(sock),
        lambda s, sock: s.get_map()[object()],
        lambda s, sock: [s.close(), s.get_key(sock)],
    ],
)
def test_errors_are_those_of_the_inner_selector(scene, inner, act):
    """What makes no sense raises the same, with the same text."""
    _, ours = scene.connect()
    raised = []
    for selector in (inner(), scene.selector(inner)):
        with pytest.raises((ValueError, KeyError, RuntimeError)) as caught:
            act(selector, ours)
        raised.append((caught.type, str(caught.value).split(" at 0x")[0]))
        selector.close()
    assert raised[0] == raised[1]


@pytest.mark.parametrize("bad", [{"inner": object()}, {"inner": Policy()}, {"policy": {"idle_timeout": 3}}])
def test_what_is_no_selector_and_no_policy_is_refused(scene, bad):
    """An argument of the wrong kind is named, with the remedy."""
    with pytest.raises(UsageError, match="give"):
        GuardedSelector(**bad)


# --- What handlers leave open ---


def test_what_is_over_and_left_open_is_closed_at_the_next_select(scene, inner):
    """A reset connection whose handler does nothing is unregistered and closed when select() is called again."""
    peer, ours = scene.connect()
    selector = scene.selector(inner)
    selector.register(ours, READ, "data")
    reset(peer)
    assert [key.fileobj for key, _ in selector.select(5)] == [ours]
    assert ours.fileno() >= 0
    for _ in range(2):  # the first finds it so, and tells once more
        selector.select(0)
    if KERNEL_KEEPS_BOOKS:
        assert ours.fileno() == -1
        assert not selector.get_map() and ours not in selector.get_map()
        [event] = scene.told()
        assert (event.fields["reason"], event.fields["step"]) == ("dead", "closed")


@pytest.mark.needs_books
def test_a_late_clean_up_does_not_fail(scene, inner):
    """A program that does not know that its connection is closed may go on with it; each call as if it were there."""
    peer, ours = scene.connect()
    selector = scene.selector(inner)
    key = selector.register(ours, READ, "data")
    reset(peer)
    turn(selector, ignore, until=lambda: ours.fileno() < 0)
    assert selector.get_key(ours) == key
    assert selector.modify(ours, READ | WRITE, "more").events == READ | WRITE
    assert selector.register(ours, READ, "again").data == "again"
    assert selector.unregister(ours) == (ours, key.fd, READ, "again")
    ours.close()
    with pytest.raises((KeyError, ValueError)):
        selector.unregister(ours)


def test_a_handler_that_closes_is_left_alone(scene, inner):
    """A proper program is told of each end once, closes, and nothing is said of it."""
    selector = scene.selector(inner, half_close="close")
    closed = []

    def handle(key, events):
        data = b""
        with contextlib.suppress(ConnectionError):
            data = key.fileobj.recv(100)
        if not data:
            assert selector.unregister(key.fileobj) == key
            key.fileobj.close()
            closed.append(key.fileobj)

    for end in (reset, socket.socket.close, lambda peer: peer.shutdown(socket.SHUT_WR)):
        peer, ours = scene.connect()
        selector.register(ours, READ)
        peer.sendall(b"x")
        turn(selector, handle, until=lambda peer=peer, end=end: end(peer) is None)
        turn(selector, handle, until=lambda ours=ours: ours in closed)
    assert scene.told() == []


@pytest.mark.needs_books
def test_no_end_is_kept_from_its_handler(scene, inner):
    """A connection that ends right after its handler was told of data is reported before it is closed."""
    selector = scene.selector(inner)
    for _ in range(20):
        peer, ours = scene.connect()
        selector.register(ours, READ)
        peer.sendall(b"x")
        eventually(lambda: selector.select(0.1))
        assert ours.recv(10) == b"x"
        reset(peer)
        eventually(lambda ours=ours: ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == 7)
        assert [key.fileobj for key, _ in selector.select(1)] == [ours]
        with pytest.raises(ConnectionResetError):
            ours.recv(10)
        selector.unregister(ours)
        ours.close()


@pytest.mark.needs_books
def test_half_close_close_ends_at_the_select_after_the_eof_was_read(scene, inner):
    """With the strict policy, a handler that has read the EOF and left it at that finds its connection closed."""
    peer, ours = scene.connect()
    selector = scene.selector(inner, half_close="close")
    selector.register(ours, READ)
    peer.sendall(b"abc")
    peer.shutdown(socket.SHUT_WR)
    got = []
    turn(selector, lambda key, _: got.append(ours.recv(1)), until=lambda: b"" in got)
    assert ours.fileno() >= 0 and got == [b"a", b"b", b"c", b""]
    selector.select(0)
    assert ours.fileno() == -1 and peer.recv(10) == b""
    [event] = scene.told()
    assert (event.fields["reason"], event.fields["setting"]) == ("half_closed", "half_close")


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_UNIX])
def test_half_close_close_ends_what_nobody_reads_the_eof_of(scene, inner, family):
    """With the strict policy, a handler that ignores the end altogether finds its connection closed, without a spin."""
    peer, ours = scene.connect(family)
    selector = scene.selector(inner, half_close="close")
    selector.register(ours, READ)
    peer.shutdown(socket.SHUT_WR)
    assert turn(selector, ignore, until=lambda: ours.fileno() < 0) < 20_000


def test_half_close_close_waits_until_all_is_read(scene, inner):
    """Not a byte that the peer has sent is lost, however slowly they are read."""
    peer, ours = scene.connect()
    selector = scene.selector(inner, half_close="close")
    selector.register(ours, READ)
    peer.sendall(b"x" * 3000)
    peer.close()
    n_got = 0

    def slowly(key, events):
        nonlocal n_got
        with contextlib.suppress(BlockingIOError):
            n_got += len(ours.recv(1))

    turn(selector, slowly, until=lambda: ours.fileno() < 0)
    assert n_got == 3000


@pytest.mark.needs_books
def test_what_is_still_to_be_sent_is_sent(scene):
    """The peer gets all of an answer that waits in our send buffer when the strict policy closes."""
    peer, ours = scene.connect()
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32768)
    selector = scene.selector(half_close="close")
    selector.register(ours, READ)
    n_sent = ours.send(b"y" * 300_000)
    peer.shutdown(socket.SHUT_WR)
    turn(selector, read, until=lambda: ours.fileno() < 0)
    n_got = 0
    while data := peer.recv(65536):
        n_got += len(data)
    assert n_got == n_sent > 65536


def test_a_unix_connection_whose_peer_is_gone_is_closed(scene, inner):
    """A Unix socket that hangs up both ways is closed, by what Linux says of it."""
    peer, ours = scene.connect(socket.AF_UNIX)
    selector = scene.selector(inner)
    selector.register(ours, READ)
    peer.close()
    turn(selector, read, until=lambda: ours.fileno() < 0)


def test_observe_touches_nothing(scene):
    """A policy that only looks leaves a connection open that any other would have closed, and its spin goes on."""
    peer, ours = scene.connect()
    selector = scene.selector(mode="observe", half_close="close")
    selector.register(ours, READ)
    reset(peer)
    assert count_rounds(selector, ignore, 0.3, at_least=1001) > 1000
    assert ours.fileno() >= 0 and scene.told() == []


# --- The spin ---


@pytest.mark.slow
@pytest.mark.parametrize("handle", [ignore, read])
def test_a_spin_is_stopped(scene, inner, handle):
    """A handler that ignores the EOF takes all of a CPU; guarded, it is told for a moment and then hardly ever."""
    peer, ours = scene.connect()
    peer.shutdown(socket.SHUT_WR)
    with inner() as bare:
        bare.register(ours, READ)
        n_bare = count_rounds(bare, handle, 0.5, at_least=50_000)
    selector = scene.selector(inner)
    selector.register(ours, READ)
    started = time.process_time()
    n_guarded = turn(selector, handle, until=lambda: n_resting(selector))
    n_later = count_rounds(selector, handle, 0.5)
    assert n_later <= 3 and LOOKS <= n_guarded < n_bare / 5
    assert time.process_time() - started < 0.4
    assert ours.fileno() >= 0 and scene.told() == []


@pytest.mark.slow
@pytest.mark.needs_books
def test_a_spin_ends_after_fin_timeout(scene, inner):
    """With `drain`, a connection that rests is ended by the guard when its time is up, and closed."""
    peer, ours = scene.connect()
    selector = scene.selector(inner, fin_timeout=0.5)
    selector.register(ours, READ)
    started = time.monotonic()
    peer.shutdown(socket.SHUT_WR)
    turn(selector, read, until=lambda: ours.fileno() < 0)
    assert time.monotonic() - started >= 0.5
    [event] = scene.told()
    assert event.fields["setting"] == "fin_timeout"
    assert selector.unregister(ours).fileobj is ours


@pytest.mark.slow
def test_allow_never_closes(scene):
    """With `allow` the spin is stopped, and the connection stays open."""
    peer, ours = scene.connect()
    selector = scene.selector(half_close="allow", fin_timeout=0.3)
    selector.register(ours, READ)
    peer.shutdown(socket.SHUT_WR)
    assert count_rounds(selector, read, 1.0) < 20_000
    assert ours.fileno() >= 0 and scene.told() == []
    ours.send(b"still here")
    assert peer.recv(10) == b"still here"


@pytest.mark.slow
def test_who_goes_on_sending_does_not_spin(scene, inner):
    """A handler that has read the EOF and sends on is told of room to send, until all is sent; READ rests meanwhile."""
    peer, ours = scene.connect()
    selector = scene.selector(inner, fin_timeout=1.5)
    selector.register(ours, READ | WRITE)
    peer.shutdown(socket.SHUT_WR)
    left, got, last, seen, longest = 3_000_000, [], time.monotonic(), time.monotonic(), 0.0

    def send(key, events):
        nonlocal left, last
        if events & READ:
            read(key, events)
        if events & WRITE and left:
            left -= ours.send(b"z" * min(left, 65536))

    def receive():
        nonlocal last, seen, longest
        seen, longest = time.monotonic(), max(longest, time.monotonic() - seen)
        if time.monotonic() - last > 0.15:  # slower than fin_timeout in all
            last = time.monotonic()
            got.append(len(peer.recv(200_000)))
        return sum(got) == 3_000_000

    turn(selector, send, until=receive, timeout=0.01)
    # Where we stood still ourselves for want of the processor, nothing moved: then it may have been ended.
    assert longest > 0.5 or (ours.fileno() >= 0 and scene.told() == [])


def n_resting(selector) -> int:
    """Counts the connections that rest."""
    return len(selector._resting.by_fd)  # noqa: SLF001 - to the program they are as ever


def rest(scene, selector, events=READ, data=None):
    """Makes a connection that rests."""
    peer, ours = scene.connect()
    selector.register(ours, events, data)
    peer.shutdown(socket.SHUT_WR)
    turn(selector, read, until=lambda: n_resting(selector))
    return peer, ours


def test_what_rests_is_registered_to_all_appearances(scene, inner):
    """The program finds its own key wherever it looks, and cannot register twice."""
    selector = scene.selector(inner)
    _peer, ours = rest(scene, selector, READ, "data")
    key = (ours, ours.fileno(), READ, "data")
    assert selector.get_key(ours) == selector.get_map()[ours.fileno()] == key
    assert list(selector.get_map().values()) == [key] and len(selector.get_map()) == 1 and ours in selector.get_map()
    with pytest.raises(KeyError, match="already registered"):
        selector.register(ours, READ)
    assert selector.unregister(ours) == (ours, ours.fileno(), READ, "data")
    with pytest.raises(KeyError):
        selector.unregister(ours)
    assert len(selector.get_map()) == 0 and selector.select(0) == []


def test_modify_ends_the_rest(scene, inner):
    """Who waits for something else is told at once."""
    selector = scene.selector(inner)
    _peer, ours = rest(scene, selector)
    assert selector.select(0) == []
    key = selector.modify(ours, READ | WRITE, "new")
    assert key == (ours, ours.fileno(), READ | WRITE, "new")
    assert {k.fileobj: events for k, events in selector.select(1)} == {ours: READ | WRITE}


def test_to_ask_for_the_same_again_is_no_change(scene, inner):
    """A handler that only calls modify() with what it has gets its data changed, and goes on resting."""
    selector = scene.selector(inner)
    _peer, ours = rest(scene, selector)
    assert selector.modify(ours, READ, "new").data == "new" == selector.get_key(ours).data
    assert selector.select(0) == []


@pytest.mark.slow
def test_what_rests_is_told_again(scene, inner):
    """A handler that comes to its senses gets another chance, with its own key, and may close."""
    selector = scene.selector(inner)
    peer, ours = rest(scene, selector, READ | WRITE, "data")
    told = []
    turn(
        selector,
        lambda key, events: told.append((key, events)),
        until=lambda: any(events & READ for _, events in told),
    )
    assert {key for key, _ in told} == {(ours, ours.fileno(), READ | WRITE, "data")}
    selector.unregister(ours)
    ours.close()
    assert peer.recv(10) == b"" and scene.told() == []


@pytest.mark.slow
def test_what_is_closed_while_it_rests_is_forgotten(scene, inner):
    """A connection that the program closes without a word is not confused with the next one of its number."""
    selector = scene.selector(inner)
    _, ours = rest(scene, selector)
    fd = ours.fileno()
    peer, new = scene.connect()
    ours.close()
    os.dup2(new.fileno(), fd)
    reused = socket.socket(fileno=fd)
    scene.stack.callback(reused.close)
    turn(selector, ignore, until=lambda: not n_resting(selector))
    assert selector.unregister(ours).fd == fd
    peer.send(b"x")
    assert reused.recv(1) == b"x"


@pytest.mark.slow
def test_unread_bytes_make_no_haste(scene):
    """A handler that lets bytes lie behind which the end waits is reported at full speed for a second; none is lost."""
    peer, ours = scene.connect()
    selector = scene.selector()
    selector.register(ours, READ)
    peer.sendall(b"abc")
    peer.close()
    started = time.monotonic()
    assert turn(selector, ignore, until=lambda: n_resting(selector)) > LOOKS
    assert time.monotonic() - started >= 1.0
    assert count_rounds(selector, ignore, 0.5) <= 3
    assert ours.recv(10) == b"abc"


@pytest.mark.slow
@pytest.mark.needs_books
def test_unread_bytes_of_a_reset_connection_do_not_keep_it_for_ever(scene):
    """Its handler lets them lie for twice `fin_timeout`: it is closed, and that is told with setting and bytes."""
    peer, ours = scene.connect()
    selector = scene.selector(fin_timeout=0.5)
    selector.register(ours, READ)
    peer.sendall(b"abc")
    turn(selector, ignore, until=lambda: count_unread(ours.fileno()) == 3)
    reset(peer)
    started = time.monotonic()
    turn(selector, ignore, until=lambda: ours.fileno() < 0)
    assert time.monotonic() - started >= 1.0
    [event] = scene.told()
    told = event.fields
    assert (told["reason"], told["setting"], told["limit"], told["unread"]) == ("dead", "fin_timeout", 0.5, 3)
    assert selector.unregister(ours).fileobj is ours


# --- Time-outs, without a thread ---


@pytest.mark.slow
@pytest.mark.needs_books
def test_an_idle_connection_is_ended(scene, inner):
    """The idle time-out ends a connection although nothing happens on any; its handler sees the end, and may close."""
    _peer, ours = scene.connect()
    selector = scene.selector(inner, idle_timeout=0.5)
    selector.register(ours, READ)
    threads = set(os.listdir("/proc/self/task"))
    started = time.monotonic()
    [(key, events)] = selector.select()
    assert 0.5 <= time.monotonic() - started < 20
    assert (key.fileobj, events, ours.recv(10)) == (ours, READ, b"")
    assert set(os.listdir("/proc/self/task")) <= threads  # those of tests before may end
    [event] = scene.told()
    assert event.fields["reason"] == "idle"


@pytest.mark.slow
@pytest.mark.needs_books
def test_an_idle_connection_that_its_handler_leaves_open_is_closed(scene, inner):
    """What the guard has ended, and the handler was told of, does not stay open."""
    peer, ours = scene.connect()
    selector = scene.selector(inner, idle_timeout=0.5)
    selector.register(ours, READ)
    turn(selector, read, until=lambda: ours.fileno() < 0)
    assert [event.fields["reason"] for event in scene.told()] == ["idle"]
    assert peer.recv(10) == b""


@pytest.mark.slow
@pytest.mark.needs_books
def test_a_busy_connection_is_not_idle(scene):
    """A connection on which a byte moves now and then outlives its idle time-out."""
    peer, ours = scene.connect()
    selector = scene.selector(idle_timeout=1.5)
    selector.register(ours, READ)
    for _ in range(10):
        peer.send(b"x")
        [(key, _)] = selector.select(5)
        assert key.fileobj is ours
        ours.send(ours.recv(1))
        assert peer.recv(1) == b"x"
        time.sleep(0.2)
    assert ours.fileno() >= 0 and scene.told() == []


@pytest.mark.slow
def test_select_waits_on_when_only_the_guard_is_due(scene, inner):
    """select() without a time-out does not come back for the guard's ticks, however many there are."""
    peer, ours = scene.connect()
    selector = scene.selector(inner)
    selector.register(ours, READ)
    ticks = []
    tick = scene.guard.tick_if_driven

    def count(now):
        ticks.append(now)
        if len(ticks) == 4:
            peer.send(b"x")
        return tick(now)

    scene.guard.tick_if_driven = count
    assert [key.fileobj for key, _ in selector.select()] == [ours]
    assert len(ticks) >= 4


@pytest.mark.slow
@pytest.mark.parametrize("timeout", [0, -1, 0.05, 0.3, 0.7])
def test_a_timeout_is_kept(scene, inner, timeout):
    """select() waits as long as it is asked to, and no longer, though the guard is due in between."""
    _, ours = scene.connect()
    selector = scene.selector(inner)
    selector.register(ours, READ)
    selector.select(0)

    def is_kept() -> bool:
        started = time.monotonic()
        assert selector.select(timeout) == []
        took = time.monotonic() - started
        assert took >= max(timeout, 0) - 0.002
        return took < max(timeout, 0) + 0.2  # unless it had to wait for the processor

    for _ in range(2):
        eventually(is_kept)


class _Impatient(selectors.DefaultSelector):
    """Comes back early, as one whose wake-up function was called."""

    def select(self, timeout=None):
        return super().select(0.01)


@pytest.mark.parametrize("timeout", [None, 5])
def test_an_early_return_of_the_inner_selector_is_passed_on(scene, timeout):
    """If the inner selector has reasons of its own to come back with nothing, so does this one."""
    _, ours = scene.connect()
    selector = scene.selector(_Impatient)
    selector.register(ours, READ)
    selector.select(0)
    started = time.monotonic()
    assert selector.select(timeout) == []
    assert time.monotonic() - started < 4


def test_a_program_whose_last_connection_was_taken_away_does_not_wait_for_ever(scene, inner):
    """A loop that runs while something is registered comes to its end."""
    peer, ours = scene.connect(socket.AF_UNIX)
    selector = scene.selector(inner)
    selector.register(ours, READ)
    peer.close()
    n_rounds = 0
    while selector.get_map():
        selector.select()
        n_rounds += 1
        assert n_rounds < 20_000
    assert ours.fileno() == -1


@pytest.mark.slow
def test_a_guard_with_a_thread_is_not_driven(scene):
    """Where the guard has a thread of its own, select() does not wake for it."""
    _, ours = scene.connect()
    scene.guard.start()
    n_calls = []

    class Counting(selectors.DefaultSelector):
        def select(self, timeout=None):
            n_calls.append(timeout)
            return super().select(timeout)

    selector = scene.selector(Counting)  # none of the standard library's: it gets no alarm
    selector.register(ours, READ)
    assert selector.select(0.6) == []
    assert len(n_calls) <= 2


# --- Whose connection is it? ---


def test_sides_are_known(scene):
    """What comes from a listener was accepted, also if the selector does not know the listener; the rest we opened."""
    selector = scene.selector()
    with listen() as listener, listen() as stranger:
        selector.register(listener, READ)
        clients = [socket.create_connection(each.getsockname()) for each in (listener, stranger)]
        servers = [each.accept()[0] for each in (listener, stranger)]
        for sock in (*clients, *servers):
            selector.register(sock, READ)
        selector.select(0)
        selector.select(0)
        sides = {sock: scene.guard.registry.by_fd.get(sock.fileno()) for sock in (*clients, *servers)}
        if KERNEL_KEEPS_BOOKS:
            assert [record.is_server for record in sides.values()] == [False, False, True, True]
            assert all("test_sides_are_known" in record.site.frames()[0] for record in sides.values())
        assert listener.fileno() not in scene.guard.registry.by_fd
        for sock in sides:
            sock.close()
    assert scene.told() == []


@pytest.mark.needs_books
def test_who_is_registered_again_keeps_its_history(scene):
    """A program that unregisters to pause does not set the clocks back."""
    _, ours = scene.connect()
    selector = scene.selector(idle_timeout=100)
    selector.register(ours, READ)
    selector.select(0)
    before = scene.guard.registry.by_fd[ours.fileno()]
    selector.unregister(ours)
    selector.register(ours, READ)
    scene.guard.tick(time.monotonic())
    assert scene.guard.registry.by_fd[ours.fileno()] is before
    assert before.policy_or(None).idle_timeout == 100


@pytest.mark.needs_books
def test_a_registered_number_is_shut_down_and_stays_open(scene, inner):
    """A number belongs to whoever has opened it: the connection is ended, the number is not closed."""
    peer, ours = scene.connect()
    fd = ours.fileno()
    selector = scene.selector(inner, half_close="close")
    selector.register(fd, READ, "data")
    peer.shutdown(socket.SHUT_WR)
    turn(selector, lambda key, _: ours.recv(10), until=lambda: not selector.get_map())
    assert peer.recv(10) == b"" and ours.fileno() == fd and os.fstat(fd)
    [event] = scene.told()
    assert event.fields["step"] == "shut_down"
    assert selector.unregister(fd) == (fd, fd, READ, "data")
    with pytest.raises(KeyError):
        selector.unregister(fd)


@pytest.mark.needs_books
@pytest.mark.parametrize("was_seen", [False, True])
def test_a_registered_number_that_is_another_connection_by_now_is_left_alone(scene, was_seen):
    """A number that was closed and given to another connection, without a word, is not shut down.

    Nor if that was before the guard first looked.
    """
    _, ours = scene.connect()
    peer, new = scene.connect()
    fd = ours.detach()
    selector = scene.selector(selectors.PollSelector, half_close="close")
    selector.register(fd, READ)
    if was_seen:
        scene.guard.tick(time.monotonic())
    os.dup2(new.fileno(), fd)
    peer.shutdown(socket.SHUT_WR)
    assert count_rounds(selector, lambda key, _: new.recv(10), 0.4, at_least=101) > 100
    for seconds in range(3):
        scene.guard.tick(time.monotonic() + seconds)
    new.send(b"alive")
    assert peer.recv(10) == b"alive" and scene.told() == []
    selector.unregister(fd)
    os.close(fd)


@pytest.mark.parametrize("was_seen", [False, True])
def test_an_object_that_was_closed_and_whose_number_is_another_connection_is_left_alone(scene, was_seen):
    """An object that the program closed without unregistering it does not drag the next one of its number along."""
    _, ours = scene.connect()
    peer, new = scene.connect()
    selector = scene.selector(selectors.PollSelector, half_close="close")
    fd = selector.register(ours, READ).fd
    if was_seen:
        scene.guard.tick(time.monotonic())
    ours.close()
    os.dup2(new.fileno(), fd)
    peer.shutdown(socket.SHUT_WR)
    assert count_rounds(selector, lambda key, _: new.recv(10), 0.3, at_least=101) > 100
    for seconds in range(3):
        scene.guard.tick(time.monotonic() + seconds)
    new.send(b"alive")
    assert peer.recv(10) == b"alive" and scene.told() == []
    assert selector.unregister(ours).fileobj is ours
    os.close(fd)


class Session:
    """A program's own object: registered by itself, and thorough when it closes."""

    def __init__(self, selector, sock) -> None:
        self.selector, self.sock, self.n_closed = selector, sock, 0
        selector.register(self, READ, "session")

    def fileno(self) -> int:
        return self.sock.fileno()

    def close(self) -> None:
        self.n_closed += 1
        self.selector.unregister(self.sock)  # by another name than it was registered
        self.sock.close()


@pytest.mark.needs_books
def test_an_object_of_the_programs_own_is_closed_by_its_close(scene, inner):
    """The close() of a registered object runs once, and may unregister what is not registered any more."""
    peer, ours = scene.connect()
    selector = scene.selector(inner)
    session = Session(selector, ours)
    reset(peer)
    turn(selector, ignore, until=lambda: session.n_closed)
    assert ours.fileno() == -1 and session.n_closed == 1
    assert selector.unregister(session).data == "session"


@pytest.mark.needs_books
def test_a_close_that_fails_does_not_come_out_of_select(scene):
    """What the program's own close() raises is told, and select() goes on."""
    peer, ours = scene.connect()
    selector = scene.selector()
    session = Session(selector, ours)
    session.close = lambda: 1 / 0
    reset(peer)
    turn(selector, ignore, until=lambda: not selector.get_map())
    assert "ZeroDivisionError" in scene.told("guard_failed")[0].fields["error"]
    scene.events.clear()


@pytest.mark.needs_books
def test_a_shared_connection_ends_for_the_peer(scene):
    """Where another process, or a duplicate, holds the connection too, the peer gets its end all the same."""
    peer, ours = scene.connect()
    double = ours.dup()
    selector = scene.selector(half_close="close")
    selector.register(ours, READ)
    peer.shutdown(socket.SHUT_WR)
    turn(selector, read, until=lambda: ours.fileno() < 0)
    assert peer.recv(10) == b""
    double.close()


def test_a_connection_that_is_not_made_yet_is_left_alone(scene, inner):
    """A socket that was never connected is reported again and again, as ever, and stays open."""
    selector = scene.selector(inner)
    with socket.socket() as fresh, socket.socket() as refused, listen() as listener:
        address = listener.getsockname()
        listener.close()
        fresh.setblocking(False)
        refused.setblocking(False)
        refused.connect_ex(address)
        selector.register(fresh, READ)
        selector.register(refused, READ | WRITE)
        count_rounds(selector, ignore, 0.1)
        assert fresh.fileno() >= 0 and refused.fileno() >= 0
        assert refused.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)


def test_pipes_and_datagrams_are_as_ever(scene, inner):
    """What is no stream connection is not touched, whatever becomes of its other end."""
    selector = scene.selector(inner, half_close="close")
    reading, writing = os.pipe()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams, open(reading, "rb") as pipe:
        selector.register(pipe, READ)
        selector.register(datagrams, READ)
        os.close(writing)
        assert count_rounds(selector, ignore, 0.2, at_least=101) > 100
        assert not pipe.closed and len(selector.get_map()) == 2


@pytest.mark.needs_books
def test_what_the_program_drops_is_dropped(scene):
    """A connection that was unregistered or taken away, and is referred to nowhere else, dies."""
    selector = scene.selector()
    refs = []
    for is_proper in (True, False):
        peer, ours = scene.connect()
        scene.stack.pop_all()  # which refers to it
        selector.register(ours, READ)
        reset(peer)
        turn(
            selector,
            lambda key, _, p=is_proper: selector.unregister(key.fileobj) and key.fileobj.close() if p else None,
            until=lambda: not selector.get_map(),
        )
        refs.append(weakref.ref(ours))
        del peer, ours
    gc.collect()
    assert [ref() for ref in refs] == [None, None]
    selector.close()
    scene.guard.stop()


# --- Guarded sockets ---


def test_a_guarded_socket_keeps_its_own_policy(scene):
    """What was guarded by itself is judged by its own terms."""
    peer, ours = scene.connect()
    selector = scene.selector(half_close="close")
    guarded = guard_socket(ours, Policy(half_close="allow"))
    selector.register(guarded, READ)
    peer.shutdown(socket.SHUT_WR)
    assert count_rounds(selector, read, 0.5) < 20_000
    guarded.send(b"alive")
    assert peer.recv(10) == b"alive" and scene.told() == []
    selector.unregister(guarded)
    guarded.close()


@pytest.mark.needs_books
def test_a_guarded_socket_that_the_selector_closed_says_why(scene):
    """A call that comes too late raises what a guarded socket raises."""
    peer, ours = scene.connect()
    selector = scene.selector()
    guarded = guard_socket(ours)
    selector.register(guarded, READ)
    reset(peer)
    turn(selector, ignore, until=lambda: not selector.get_map())
    with pytest.raises(ConnectionAbortedError, match="sockguard ended this connection"):
        guarded.recv(10)


def test_a_guarded_socket_that_closes_itself_leaves_no_number_behind(scene, inner):
    """A guarded socket that closes at the EOF, and whose handler does no more, is unregistered; the number is free."""
    selector = scene.selector(inner)
    for _ in range(3):
        peer, ours = scene.connect()
        guarded = guard_socket(ours, Policy(half_close="close"))
        fd = selector.register(guarded, READ).fd
        new_peer, new = scene.connect()
        peer.close()
        turn(selector, read, until=lambda guarded=guarded: guarded.fileno() < 0)
        os.dup2(new.fileno(), fd)
        again = socket.socket(fileno=fd)
        selector.register(again, READ)
        new_peer.send(b"x")
        assert [key.fileobj for key, _ in selector.select(5)] == [again]
        selector.unregister(again)
        again.close()
        selector.unregister(guarded)


# --- Below an event loop ---


@pytest.mark.slow
@pytest.mark.needs_books
def test_asyncio_runs_on_it(scene):
    """An event loop registers numbers: connections are served, and an idle one is aborted by its own transport."""

    async def handle(reader, writer):
        while data := await reader.read(100):
            writer.write(data)
        writer.close()

    async def main():
        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"hello")
        assert await reader.readexactly(5) == b"hello"
        assert await asyncio.wait_for(reader.read(10), 10) == b""  # both ends are idle, and are ended
        writer.close()
        server.close()
        await asyncio.sleep(0.3)

    selector = GuardedSelector(policy=Policy(idle_timeout=0.5))
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selector)) as runner:
        runner.run(main())
    assert {event.fields["reason"] for event in scene.told()} == {"idle"}
    assert selector.get_map() is None


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_process_needs_no_thread(scene):
    """A selector and its guard start none."""
    _, ours = scene.connect()
    threads = set(os.listdir("/proc/self/task"))
    selector = scene.selector()
    selector.register(ours, READ)
    selector.select(0.3)
    assert set(os.listdir("/proc/self/task")) <= threads


@pytest.mark.needs_books
def test_what_is_new_is_admitted_bit_by_bit_while_select_waits(scene, inner, monkeypatch):
    """Not all at once, nor one bit at each alarm: select() wakes itself, and waits on for what it was called for."""
    monkeypatch.setattr("sockguard._engine.driver.MOST", 1)
    selector = scene.selector(inner)
    pairs = [scene.connect() for _ in range(60)]
    for _, ours in pairs:
        selector.register(ours, READ)
    n_admitted, is_all = [], threading.Event()
    tick = scene.guard.tick_if_driven

    def count(now):
        at = tick(now)
        n_admitted.append(sum(record.cookie is not None for record in scene.guard.registry.records()))
        if n_admitted[-1] == len(pairs) and not is_all.is_set():
            is_all.set()
            pairs[0][0].send(b"x")
        return at

    scene.guard.tick_if_driven = count
    assert [key.fileobj for key, _ in selector.select(10)] == [pairs[0][1]]  # an alarm each would take 15 s
    assert is_all.is_set()
    assert all(after - before <= 1 for before, after in itertools.pairwise(n_admitted))
