"""`GuardedSelector`: a selector that ends what its handlers leave open, and drives the guard from its own `select()`.

It does its own work when the inner selector has returned, before the handlers are told. Of
what they are about to be told, one system call finds those that have hung up; a connection
that is well is not touched. That call is made no more often than its cost allows, so a round
with a message or two pays for a look at the clock. Nothing is missed: what has hung up is
reported again in each round, for as long as it is registered. If nothing has changed when that
happens, its handler was told and left it open.

Around an EpollSelector a timer among its descriptors wakes it for the guard, since a wait without
time-out costs less (alarm.py); any other is given time-outs.

`select()` never returns early, and never empty-handed, for the guard's sake: when only the
guard is due, it does what is due and waits on.
"""

import math
import selectors
from collections.abc import Callable, Mapping
from typing import Any

from sockguard._core.left_open import Fate
from sockguard._core.policy import Policy
from sockguard._core.timers import TICK
from sockguard._engine.current import shared_guard
from sockguard._engine.sockets.shown import ShownToSelector
from sockguard._engine.terms import check_policy
from sockguard._kernel.alarm import Alarm
from sockguard._kernel.natives import monotonic
from sockguard.adapters.selectors.caretaker import Caretaker, Finding
from sockguard.adapters.selectors.resting import RegisteredMap, Rest, Resting
from sockguard.adapters.selectors.taken_away import TakenAway, number_of
from sockguard.errors import UsageError

__all__ = ["GuardedSelector"]

Key = selectors.SelectorKey

LOOK_EVERY = 1e-3
"""Seconds between two looks at what is ready, some 400 times what a look takes."""
LOOK_EVERY_EACH = 0.1e-3
"""Seconds more for each event that was looked at."""
LONGEST_WAIT = 3600.0
"""Seconds, if nothing is due."""
EARLY = 0.001
"""Seconds by which a wait may look shorter than it was asked to be: the resolution of epoll."""
_now = monotonic


class GuardedSelector(selectors.BaseSelector):
    """A selector around another one, to which it behaves as that one does, errors included.

    Each TCP connection that is registered is taken into the guard. A connection whose handler
    was told of its end and left it open is unregistered and closed, by the `close()` of the
    registered object, at the next `select()`: if it is over in both directions, or as the
    policy's `half_close` says. A handler that ignores the end again and again does not take
    all of a CPU: that connection is reported less and less often. Bytes that are unread
    are kept until a time-out ends it. A registered number, or an object without `close()`, is only shut down.

    A later `unregister()`, `modify()` or `register()` of what was closed here does nothing, and
    `get_key()` gives the key that it had.

    No thread is needed: the guard does its work in `select()`. As with any selector, a
    connection that is handed to another thread has to be unregistered first. `fileno` is
    there if the inner selector has it.

    Args:
        inner: The selector that does the work; a `selectors.DefaultSelector()` if not given. It
            is closed with this one, and nobody else should use it.
        policy: What is wanted of its connections; that of the process's guard if not given.
            A `GuardedSocket` keeps its own.

    Raises:
        UsageError: An argument is of the wrong kind.
        PolicyError: A `SOCKGUARD_*` variable makes no sense.
    """

    fileno: Callable[[], int]

    def __init__(self, inner: selectors.BaseSelector | None = None, policy: Policy | None = None) -> None:
        check_policy(policy)
        if inner is not None and not isinstance(inner, selectors.BaseSelector):
            msg = f"inner={inner!r} is no selector: give one, such as selectors.DefaultSelector(), or none"
            raise UsageError(msg)
        self._guard = shared_guard(thread=False)
        self._caretaker = Caretaker(self._guard, policy)
        self._inner = selectors.DefaultSelector() if inner is None else inner
        if hasattr(self._inner, "fileno"):
            self.fileno = self._inner.fileno
        self._resting = Resting(self._inner)
        self._rests = self._resting.by_fd
        self._taken = TakenAway()
        self._alarm = _alarm_in(self._inner)
        self._wakes = self._alarm is None
        """It wakes itself by a time-out, as there is no alarm, or none that is soon enough."""
        self._map = RegisteredMap(self._inner.get_map(), self._resting, self._taken, self._alarm)
        self._is_emptied = False
        self._due_at = self._wake_at = 0.0
        self._rest_at = math.inf

    def register(self, fileobj: Any, events: int, data: Any = None) -> Key:
        """Registers a file object; see `selectors.BaseSelector.register`."""
        if len(self._taken) and (taken := self._taken.pop(fileobj)) is not None and number_of(fileobj) < 0:
            self._taken.add(key := taken._replace(events=events, data=data))
            return key
        if self._rests:
            self._wake(self._resting.of(fileobj))
        with ShownToSelector(fileobj):
            try:
                key = self._inner.register(fileobj, events, data)
            except KeyError:
                if not self._purge(self._inner.get_key(number_of(fileobj))):
                    raise
                key = self._inner.register(fileobj, events, data)
        self._is_emptied = False
        self._caretaker.welcome(fileobj, key.fd)
        return key

    def unregister(self, fileobj: Any) -> Key:
        """Unregisters a file object; see `selectors.BaseSelector.unregister`."""
        rest = self._resting.of(fileobj)
        try:
            with ShownToSelector(fileobj):
                key = rest.key if rest is not None and rest.is_hidden else self._inner.unregister(fileobj)
        except (KeyError, ValueError):
            if (taken := self._taken.pop(fileobj)) is None:
                raise
            return taken
        self._caretaker.forget(key.fd)
        if rest is None:
            return key
        self._resting.forget(rest)
        return rest.key

    def modify(self, fileobj: Any, events: int, data: Any = None) -> Key:
        """Changes what is waited for; see `selectors.BaseSelector.modify`."""
        rest = self._resting.of(fileobj)
        if rest is not None and rest.key.events == events:
            return self._resting.change_data(rest, data)  # a handler that does no more than that goes on spinning
        self._wake(rest)
        try:
            with ShownToSelector(fileobj):
                return self._inner.modify(fileobj, events, data)
        except (KeyError, ValueError):
            if (taken := self._taken.of(fileobj)) is None:
                raise
            self._taken.add(key := taken._replace(events=events, data=data))
            return key

    def select(self, timeout: float | None = None) -> list[tuple[Key, int]]:
        """Waits until something is ready; see `selectors.BaseSelector.select`."""
        ends_at = math.inf if timeout is None else _now() + timeout
        try:
            if self._wakes:
                timeout = _shortest(timeout, self._wake_at - _now())
            ready = self._inner.select(timeout)
        except OSError:  # select(2) refuses a closed number, where others say nothing of it
            if not self._purge(*(self._inner.get_map() or {}).values()):
                raise
            return self.select(None if ends_at == math.inf else ends_at - _now())
        if self._rests:
            ready = self._resting.as_registered(ready)
        now = _now()
        return ready if ready and now < self._due_at else self._wait_on(ready, now, ends_at)

    def _wait_on(self, ready: list[tuple[Key, int]], now: float, ends_at: float) -> list[tuple[Key, int]]:
        """Does what is due, and goes on waiting if there is nothing else.

        Gives nothing if time is up; if the inner selector did so for reasons of its own; and if the
        last connection was taken away, as to wait for nothing would last for ever.
        """
        while True:
            is_ours = bool(ready) or (self._wakes and now >= self._wake_at - EARLY)
            if now >= self._due_at:
                ready = self._catch_up(ready, now)
            if ready or now >= ends_at or not is_ours or self._is_emptied:
                self._is_emptied = False
                return ready
            timeout = None if ends_at == math.inf else ends_at - now
            if self._wakes:
                timeout = _shortest(timeout, self._wake_at - now)
            ready = self._resting.as_registered(self._inner.select(timeout))
            now = _now()

    def close(self) -> None:
        """Closes this selector and the inner one; what is registered stays open."""
        self._inner.close()
        self._resting.clear()
        if self._alarm is not None:
            self._alarm.close()

    def get_key(self, fileobj: Any) -> Key:
        """Gives the key of a file object; see `selectors.BaseSelector.get_key`."""
        try:
            return super().get_key(fileobj)
        except (KeyError, ValueError):
            if (taken := self._taken.of(fileobj)) is None:
                raise
            return taken

    def get_map(self) -> Mapping[Any, Key]:
        """Gives a mapping of file objects to keys; None once this is closed."""
        return self._map if self._inner.get_map() is not None else None  # type: ignore[return-value] # as theirs

    def _catch_up(self, ready: list[tuple[Key, int]], now: float) -> list[tuple[Key, int]]:
        """Does what is due; gives what is left of what is ready. Never raises."""
        self._due_at, tick_at = now, now + TICK
        try:
            if self._alarm is not None and now >= self._alarm.next_at:
                self._alarm.hush()
                ready = [(key, events) for key, events in ready if key.fileobj is not self._alarm]
            if ready:
                self._due_at += LOOK_EVERY + LOOK_EVERY_EACH * len(ready)
                ready = self._look(ready, now)
            tick_at = self._guard.tick_if_driven(now)
            if now >= self._rest_at:
                self._check_resting(now)
        except Exception as error:  # noqa: BLE001 - nothing of ours may reach the application
            self._guard.failed("selector", error)
        self._wakes = self._alarm is None or self._guard.driver.is_behind
        self._wake_at = min(tick_at, self._rest_at, now + LONGEST_WAIT)
        self._due_at = min(self._wake_at, self._due_at, math.inf if self._alarm is None else self._alarm.next_at)
        return ready

    def _look(self, ready: list[tuple[Key, int]], now: float) -> list[tuple[Key, int]]:
        """Looks at what is ready; gives what its handlers are to be told."""
        taken = set()
        for finding in self._caretaker.look([key for key, _ in ready if key.fd not in self._rests], now):
            if finding.fate is Fate.CLOSE:
                taken.add(finding.key.fd)
                self._take_away(finding, now)
            elif finding.fate is Fate.SOON:
                self._due_at = now
            elif self._resting.begin(finding.key, now + finding.rest, may_send=finding.is_half_closed):
                self._caretaker.rests(finding.key)
                self._rest_at = min(self._rest_at, now + TICK)
        return [(key, events) for key, events in ready if key.fd not in taken] if taken else ready

    def _take_away(self, finding: Finding, now: float) -> None:
        """Closes a connection in the name of the program; first it is unregistered, as a closed number may ring on."""
        key = self._taken.closing = finding.key
        try:
            rest = self._resting.of(key.fd)
            if rest is None or not rest.is_hidden:
                with ShownToSelector(key.fileobj):
                    self._inner.unregister(key.fileobj)
            if rest is not None:
                self._resting.forget(rest)
            self._taken.add(key)
            self._caretaker.end(finding, now)
        finally:
            self._taken.closing = None
        self._is_emptied = not self._map

    def _check_resting(self, now: float) -> None:
        """Takes away what the guard has ended, and has others reported once more."""
        for rest in self._resting:
            if self._caretaker.has_ended(rest.key):
                self._take_away(Finding(rest.key, Fate.CLOSE, now, is_told=True), now)
            elif rest.until <= now:
                self._wake(rest)
        self._rest_at = now + TICK if self._rests else math.inf

    def _wake(self, rest: Rest | None) -> None:
        """Has a connection reported again; one that was closed meanwhile is forgotten."""
        if rest is None:
            return
        try:
            if self._caretaker.is_there(rest.key):
                self._resting.end(rest)
                return
        except OSError:
            pass  # closed by another thread, just now
        self._resting.forget(rest)
        self._taken.add(rest.key)

    def _purge(self, *keys: Key) -> bool:
        """Unregisters guarded sockets that have closed themselves; tells whether there were any."""
        closed = [key for key in keys if self._caretaker.has_closed_itself(key)]
        for key in closed:
            self._inner.unregister(key.fileobj)
            self._taken.add(key)
        return bool(closed)


def _alarm_in(inner: selectors.BaseSelector) -> Alarm | None:
    """Puts an alarm into an EpollSelector; None for any other, or if there is none to be had."""
    if type(inner) is not getattr(selectors, "EpollSelector", None):
        return None
    try:
        alarm = Alarm(TICK)
    except OSError:
        return None
    inner.register(alarm, selectors.EVENT_READ)
    return alarm


def _shortest(timeout: float | None, wait: float) -> float:
    """Gives the shorter of both spans, and never less than nothing."""
    return max(wait, 0.0) if timeout is None or timeout > wait else timeout
