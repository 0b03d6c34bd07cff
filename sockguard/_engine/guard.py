"""The guard: takes connections in, and has them swept.

`adopt` runs at every accept() and connect() of the program, in whatever thread; it takes
a few microseconds, waits for nobody, and whatever goes wrong in it stays in it.
"""

import _socket
import contextlib
import sys
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Self

from sockguard._core.events import Event
from sockguard._core.policy import Policy
from sockguard._engine.announcer import Announcer, Counter
from sockguard._engine.control import ControlServer
from sockguard._engine.driver import Driver
from sockguard._engine.endings import Endings
from sockguard._engine.failures import Failures
from sockguard._engine.hearts import Hearts
from sockguard._engine.insight import Insight
from sockguard._engine.lingering import Lingering
from sockguard._engine.record import running_loop
from sockguard._engine.registry import Entry, Registry
from sockguard._engine.sites import Site, capture, capture_at
from sockguard._engine.stalls import StallWatch
from sockguard._engine.stamped import StampedSweep
from sockguard._engine.sweep import Sweep
from sockguard._engine.terms import Demands, Terms
from sockguard._kernel.backend import KERNEL_KEEPS_BOOKS
from sockguard._kernel.natives import monotonic, native
from sockguard._kernel.one_socket import fd_of, find_cookie

__all__ = ["Guard"]

_RawSocket = _socket.socket
_ref = weakref.ref
A_TICK = 0.5
"""Seconds for which a fork waits for a tick that another thread is in the midst of; it takes some milliseconds."""
_now = monotonic


class Guard:
    """Watches the TCP connections of this process, and ends by policy those that are over.

    Made by `sockguard.install()`. As a context manager it uninstalls itself at the end of the outermost block.

    Args:
        policy: What is wanted.
        tell: Called with each event and the time; must not block or raise.
        wrap: Wraps an attribute of a class until the guard is uninstalled.
        recent: Gives the last events, for the dump.
        on_tick: Called at the end of each tick, with the time.
        counter: Counts events that would be told nobody now; without one, all are made.
    """

    def __init__(  # noqa: PLR0913 - what it is joined to
        self,
        policy: Policy,
        tell: Callable[[Event, float], object],
        *,
        wrap: Callable[[Any, str, Any], object] | None = None,
        recent: Callable[[], Iterable[tuple[float, Event]]] = tuple,
        on_tick: Callable[[float], object] | None = None,
        counter: Counter | None = None,
    ) -> None:
        self.on_exit: Callable[[], object] | None = None
        """What leaving the outermost `with` does, if it is still what it was when that was entered."""
        self._blocks: list[Callable[[], object] | None] = []
        self.failed = Failures(tell)
        self.registry = Registry()
        self.stalls = StallWatch()
        self.demands = Demands()
        self.hearts = Hearts(self.failed)
        self.lingering = Lingering()
        self.linger = self.lingering.take
        self.tell = tell
        self._on_tick = on_tick
        self._counter = counter
        self.wrap = wrap
        self.insight = Insight(policy, self.registry, self.stalls, recent)
        self.endings: Endings
        """What wrappers tell of what they end."""
        self._sweep, self._stamped = self._follow(policy)
        self._control = ControlServer(self.insight.answer)
        self._is_answering = False
        self._ticking = native("_thread", "allocate_lock")()
        self.driver = Driver(self.tick)
        self.tick_if_driven = self.driver.tick_if_driven
        self._opened: Callable[[Entry], object] = self._first_opened

    def _follow(self, policy: Policy) -> tuple[Sweep, StampedSweep]:
        self.policy = self.insight.policy = policy
        announcer = Announcer(policy, self.tell, self.insight.owner_of, self._counter)
        sweep = Sweep(policy, self.registry, self.stalls, announcer, self.demands)
        self.descriptors = sweep.descriptors
        stamped = StampedSweep(policy, announcer)
        self.endings = Endings(announcer, self.registry, stamped.records, self.failed)
        return sweep, stamped

    def change_policy(self, policy: Policy) -> None:
        """Goes on with another policy for the connections that have none of their own."""
        self.driver.pause()
        try:
            with self._ticking:  # a selector may tick in another thread
                was_open, before = self._sweep.is_open, self._stamped
                self._sweep.close()
                self._sweep, self._stamped = self._follow(policy)
                self._stamped.take_over(before)
                self.endings.stamped = before.records
                if was_open:
                    self._sweep.open()
                    self._sweep.start_anew()
        finally:
            self.driver.resume()

    def __enter__(self) -> Self:
        self._blocks.append(self.on_exit)
        return self

    def __exit__(self, *_: object) -> None:
        on_exit = self._blocks.pop()
        if on_exit is not None and on_exit is self.on_exit and on_exit not in self._blocks:
            on_exit()

    def _first_opened(self, entry: Entry) -> None:
        self._opened = self.registry.opened.append
        self._opened(entry)
        with contextlib.suppress(OSError):  # none left: the next tick tries again
            self._sweep.open()  # now, as a flood of leaks can have taken all descriptors before the next tick

    def adopt(  # noqa: PLR0913, PLR0917 - what is known of a connection
        self,
        sock: Any,
        raw: _socket.socket,
        is_server: bool,
        listener: object = None,
        terms: Terms | None = None,
        site: Site | None = None,
        depth: int = 2,
    ) -> None:
        """Takes a connection into the guard; from any thread, and never raises.

        Args:
            sock: The object that owns the connection for the program; only weakly referred to.
            raw: The same, or what it wraps: a `_socket.socket`.
            is_server: We accepted it.
            listener: Where: connections that one line accepts from one listener share their site.
            terms: What the program says of it, if it guards it explicitly; announced again, a
                connection gets these instead.
            depth: Whose line that is: 2 is the caller of our caller.
        """
        try:
            if not isinstance(raw, _RawSocket):
                return  # a stand-in of some test
            site = site or (capture(2) if listener is None else capture_at(listener, depth + 1))
            loop = running_loop()
            loop_ref = None if loop is None else self.stalls.loop_ref(loop)
            if terms is None or terms.books is None:
                cookie = None if terms is None else find_cookie(raw)
                self._opened((_ref(sock), fd_of(raw), is_server, loop_ref, site, terms, cookie))
            else:
                self._stamped.opened.append((_ref(sock), fd_of(raw), is_server, loop_ref, site, terms, _ref(raw)))
        except Exception as error:  # noqa: BLE001 - nothing of ours may reach the application
            self.failed("adopt", error)

    def adopt_transport(
        self, transport: Any, loop: Any, is_server: bool, site: Site | None = None, terms: Terms | None = None
    ) -> None:
        """Takes a transport in whose connection was accepted or connected in C; on its loop's thread."""
        try:
            if type(transport).__weakrefoffset__:
                site = site or capture_at(loop, 2)
                entry = (_ref(transport), -1, is_server, self.stalls.loop_ref(loop), site, terms)
                if terms is None or terms.books is None:
                    self._opened((*entry, None))
                else:
                    self._stamped.opened.append(entry)
        except Exception as error:  # noqa: BLE001 - nothing of ours may reach the application
            self.failed("adopt_transport", error)

    def was_refused(self) -> None:
        """Takes note that accept() failed for want of descriptors: dead connections are to go first."""
        self.descriptors.refused_at = _now()
        self.lingering.give_up(8)  # what was closed is worth less than what comes
        self.driver.wake()

    def tick(self, now: float, most: int = sys.maxsize) -> bool:
        """Does all that is due; called by the driver, or by hand with a clock of one's own. Never raises.

        Args:
            most: How many connections it may admit, look at, or have beat.

        Returns:
            Whether there are more of them.
        """
        if not self._ticking.acquire(False):
            return False  # the thread of before a fork has not come to its end yet
        is_behind = False
        try:
            watching = self._sweep.parts(now, most) if KERNEL_KEEPS_BOOKS else []
            watching += [partial(part.run, now, most) for part in (self._stamped, self.hearts)]
            is_behind = self.failed.survive("tick", [*watching, partial(self.lingering.run, now)])
            telling: list[Callable[[], object]] = [self._control.poll]
            if self._sweep.is_open and not self._is_answering:
                self._is_answering = True
                telling.insert(0, self._control.open)  # from now on there is something to tell
            if self._on_tick is not None:
                telling.append(partial(self._on_tick, now))
            self.failed.survive("tick", telling)
        except Exception as error:  # noqa: BLE001 - the guard survives its own mistakes
            self.failed("tick", error)
        finally:
            self._ticking.release()
        return is_behind

    def start(self) -> None:
        """Starts the guard's own thread, and takes connections in again if it was stopped."""
        if self.registry.opened.maxlen is not None:
            self._opened = self._first_opened
            _take_in_by(deque(), deque(), self.registry, self._stamped)
            self.descriptors.sheds_dead = self.descriptors.sheds_always
        self.driver.start()

    def stop(self) -> None:
        """Ends the thread and gives the descriptors back; connections stay as they are.

        The program may have kept what was wrapped, and call it for ever. What that announces from now on is dropped:
        nobody would take it out of the queues.
        """
        self.driver.stop()
        dropped: deque[Any] = deque(maxlen=0)
        _take_in_by(dropped, dropped, self.registry, self._stamped)
        self._opened = dropped.append
        self.descriptors.sheds_dead = False
        self._control.close()
        self._sweep.close()
        self.lingering.close()

    def before_fork(self) -> None:
        """Stops the thread: a fork must not find one."""
        self.driver.pause()

    def after_fork_in_parent(self) -> None:
        """Goes on, unless another thread is about to fork, too: then that one does."""
        is_ours = self._ticking.acquire(True, A_TICK)  # a selector may tick in another thread
        try:
            self.registry.after_fork(_now())
            self._stamped.records.after_fork(_now())
        finally:
            if is_ours:
                self._ticking.release()
            _go_on(self.driver, self.failed)

    def after_fork_in_child(self) -> None:
        """Goes on in the child, with a watch of its own and what it has inherited."""
        self.driver.forget()
        self._ticking = native("_thread", "allocate_lock")()
        self.registry.after_fork_in_child()
        self._stamped.records.after_fork_in_child(_now())
        self.stalls.forget()
        self.hearts.after_fork_in_child()
        self.lingering.close()
        self._control.after_fork_in_child()
        self._sweep.start_anew()
        _go_on(self.driver, self.failed)


def _take_in_by(opened: deque[Entry], stamped_opened: deque[Any], registry: Registry, stamped: StampedSweep) -> None:
    registry.opened = opened
    stamped.opened = stamped.records.opened = stamped_opened


def _go_on(driver: Driver, failed: Failures) -> None:
    try:
        driver.resume()
    except RuntimeError as error:  # no thread is to be had; what a hook of os.fork() raises, Python prints
        failed("fork", error)
