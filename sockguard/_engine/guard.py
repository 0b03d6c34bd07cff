"""The guard: takes connections in, and has them swept.

`adopt` runs at every accept() and connect() of the program, in whatever thread; it takes
a few microseconds, waits for nobody, and whatever goes wrong in it stays in it.
"""

import _socket
import contextlib
import os
import weakref
from collections.abc import Callable, Iterable
from typing import Any, Self

from sockguard._core.events import Event, EventName, make_event
from sockguard._core.policy import Policy
from sockguard._engine.announcer import Announcer
from sockguard._engine.control import ControlServer
from sockguard._engine.driver import Driver
from sockguard._engine.insight import Insight
from sockguard._engine.record import running_loop
from sockguard._engine.registry import Entry, Registry
from sockguard._engine.sites import Site, capture, capture_at
from sockguard._engine.stalls import StallWatch
from sockguard._engine.sweep import Sweep
from sockguard._kernel.natives import monotonic, native

__all__ = ["Guard"]

_RawSocket = _socket.socket
_ref = weakref.ref
_now = monotonic
MAX_FAILURES = 10
"""Failures of the guard's own that are told; a guard that fails at each tick must not fill a disk."""


class Guard:
    """Watches the TCP connections of this process, and ends by policy those that are over.

    Made by `sockguard.install()`. As a context manager it uninstalls itself at the end.

    Args:
        policy: What is wanted.
        tell: Called with each event and the time; must not block or raise.
        on_exit: What leaving the `with` does.
        wrap: Wraps an attribute of a class until the guard is uninstalled.
        recent: Gives the last events, for the dump.
        on_tick: Called at the end of each tick, with the time.
    """

    def __init__(  # noqa: PLR0913 - what joins it to the rest of the program; all but two can be left out
        self,
        policy: Policy,
        tell: Callable[[Event, float], object],
        *,
        on_exit: Callable[[], object] | None = None,
        wrap: Callable[[Any, str, Any], object] | None = None,
        recent: Callable[[], Iterable[tuple[float, Event]]] = tuple,
        on_tick: Callable[[float], object] | None = None,
    ) -> None:
        self.policy = policy
        self.n_failures = 0
        self.registry = Registry()
        self.stalls = StallWatch()
        self._tell = tell
        self._on_exit = on_exit
        self._on_tick = on_tick
        self.wrap = wrap
        self.insight = Insight(policy, self.registry, self.stalls, recent)
        self._sweep = Sweep(policy, self.registry, self.stalls, Announcer(policy, tell, self.insight.owner_of))
        self.descriptors = self._sweep.descriptors
        self._control = ControlServer(self.insight.answer)
        self._is_answering = False
        self._ticking = native("_thread", "allocate_lock")()
        self._driver = Driver(self.tick)
        self._opened: Callable[[Entry], object] = self._first_opened

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._on_exit is not None:
            self._on_exit()

    def _first_opened(self, entry: Entry) -> None:
        self._opened = self.registry.opened.append
        self._opened(entry)
        with contextlib.suppress(OSError):  # none left: the next tick tries again
            self._sweep.open()  # now, as a flood of leaks can have taken all descriptors before the next tick

    def adopt(self, sock: Any, raw: _socket.socket, is_server: bool, listener: object = None) -> None:
        """Takes a connection into the guard; from any thread, and never raises.

        Args:
            sock: The object that owns the connection for the program; only weakly referred to.
            raw: The same, or what it wraps: a `_socket.socket`.
            is_server: We accepted it.
            listener: Where: connections that one line accepts from one listener share their site.
        """
        try:
            if not isinstance(raw, _RawSocket):
                return  # a stand-in of some test
            site = capture(2) if listener is None else capture_at(listener, 2)
            loop = running_loop()
            loop_ref = None if loop is None else self.stalls.loop_ref(loop)
            self._opened((_ref(sock), raw.fileno(), is_server, loop_ref, site))
        except Exception as error:  # noqa: BLE001 - nothing of ours may reach the application
            self.failed("adopt", error)

    def adopt_transport(self, transport: Any, loop: Any, is_server: bool, site: Site | None = None) -> None:
        """Takes a transport in whose connection was accepted or connected in C; on its loop's thread."""
        try:
            if type(transport).__weakrefoffset__:
                site = site or capture_at(loop, 2)
                self._opened((_ref(transport), -1, is_server, self.stalls.loop_ref(loop), site))
        except Exception as error:  # noqa: BLE001 - nothing of ours may reach the application
            self.failed("adopt_transport", error)

    def was_refused(self) -> None:
        """Takes note that accept() failed for want of descriptors: dead connections are to go first."""
        self.descriptors.refused_at = _now()
        self._driver.wake()

    def tick(self, now: float) -> None:
        """Does all that is due; called by the driver, or by hand with a clock of one's own. Never raises."""
        if not self._ticking.acquire(False):
            return  # the thread of before a fork has not come to its end yet
        try:
            self._sweep.run(now)
            if self._sweep.is_open and not self._is_answering:
                self._is_answering = True
                self._control.open()  # from now on there is something to tell
            self._control.poll()
            if self._on_tick is not None:
                self._on_tick(now)
        except Exception as error:  # noqa: BLE001 - the guard survives its own mistakes
            self.failed("tick", error)
        finally:
            self._ticking.release()

    def failed(self, where: str, error: BaseException) -> None:
        """Tells of a failure of the guard's own, the first few times."""
        self.n_failures += 1
        if self.n_failures > MAX_FAILURES:
            return
        place = error.__traceback__
        while place is not None and place.tb_next is not None:
            place = place.tb_next
        line = f", {os.path.basename(place.tb_frame.f_code.co_filename)}:{place.tb_lineno}" if place else ""
        event = make_event(
            EventName.GUARD_FAILED,
            site=where,
            error=f"{type(error).__name__}: {error}",
            where=f"{where}{line}",
            pid=os.getpid(),
        )
        self._tell(event, _now())

    def start(self) -> None:
        """Starts the guard's own thread."""
        self._driver.start()

    def stop(self) -> None:
        """Ends the thread and gives the descriptors back; connections stay as they are."""
        self._driver.stop()
        self._control.close()
        self._sweep.close()

    def before_fork(self) -> None:
        """Stops the thread: a fork must not find one."""
        self._driver.stop()

    def after_fork_in_parent(self) -> None:
        """Goes on."""
        self.registry.after_fork(_now())
        _start_again(self._driver, self.failed)

    def after_fork_in_child(self) -> None:
        """Goes on in the child, with a watch of its own and what it has inherited."""
        self._driver.forget()
        self._ticking = native("_thread", "allocate_lock")()
        self.registry.after_fork_in_child()
        self.stalls.forget()
        self._control.after_fork_in_child()
        self._sweep.start_anew()
        _start_again(self._driver, self.failed)


def _start_again(driver: Driver, failed: Callable[[str, RuntimeError], object]) -> None:
    try:
        driver.start()
    except RuntimeError as error:  # no thread is to be had; what a hook of os.fork() raises, Python prints
        failed("fork", error)
