"""Who is told of an event? Outputs, at a limited rate, and listeners, of each; none of them on the guard's thread.

`tell` can be called while `tell` runs, in the same thread: by a signal handler, or by the
garbage collector. So it never waits for a lock. Who finds the lock taken leaves the event
to its holder, who looks again after it has let go.
"""

import contextlib
import os
from collections import deque
from collections.abc import Callable, Hashable, Iterable
from typing import Any, NamedTuple, Protocol, cast

from sockguard._core.events import Event, EventName, make_event
from sockguard._core.rate_limit import PERIOD, RateLimit
from sockguard._engine.courier import MAX_QUEUE, Courier
from sockguard._kernel.natives import native

__all__ = ["Listener", "Output", "Teller", "TellersCounter"]

MAX_TEXT = 200
"""Characters of the text of an exception that are told; it may hold whatever the listener worked on."""

Listener = Callable[[Event], object]


class Output(Protocol):
    """Where events go: a log, another system."""

    def wants(self, event: Event) -> bool:
        """Tells whether anybody would see it; called on the guard's thread, so it must neither wait nor lock."""

    def emit(self, event: Event) -> None:
        """Tells it, on a thread where it may take its time."""

    def close(self) -> None:
        """Undoes what was done to tell events, when the last one is told."""


class _Item(NamedTuple):
    """What waits to be told."""

    told_at: float
    event: Event
    is_for_listeners: bool


class _Audience:
    """Who is told: outputs and listeners. One that raises is told of once, to the others, and left out from then on."""

    def __init__(self, outputs: Iterable[Output], remember: Callable[[_Item], object]) -> None:
        self.outputs = list(outputs)
        self.listeners: list[Listener] = []
        self._remember = remember

    def is_waiting_for(self, event: Event) -> bool:
        """Tells whether an output may want the event; one that cannot even say so will be taken out for it."""
        return any(_may_want(output, event) for output in self.outputs)

    def deliver(self, item: _Item) -> None:
        """Hands an item to those whom it is for."""
        receivers: list[Any] = self.listeners if item.is_for_listeners else self.outputs
        for receiver in tuple(receivers):
            if receiver not in receivers:
                continue  # it was taken out meanwhile
            try:
                _hand_over(item, receiver)
            except Exception as error:  # noqa: BLE001 - whatever a listener raises
                self._take_out(receivers, receiver, error, item)

    def _take_out(self, receivers: list[Any], receiver: object, error: Exception, item: _Item) -> None:
        with contextlib.suppress(ValueError):  # it took itself out
            receivers.remove(receiver)
        failure = _failure_of(_name_of(receiver), error, "It is called no more.")
        if not item.is_for_listeners:
            with contextlib.suppress(Exception):  # perhaps it can tell its own end: it was only that one event
                _hand_over(item._replace(event=failure), receiver)
        self.deliver_failure(item.told_at, failure)

    def deliver_failure(self, told_at: float, failure: Event) -> None:
        """Hands over what went wrong with the telling itself, beside the queue and its limit."""
        self._remember(_Item(told_at, failure, is_for_listeners=False))
        for is_for_listeners in (False, True):
            self.deliver(_Item(told_at, failure, is_for_listeners))

    def close(self) -> None:
        """Closes the outputs."""
        for output in tuple(self.outputs):
            with contextlib.suppress(Exception):
                output.close()


class Teller:
    """Tells events to outputs, at a limited rate, and to listeners, each one.

    One that raises is told of once, and called no more.

    Args:
        outputs: Where events go.
        period: Seconds between two tellings of one kind and origin.
    """

    def __init__(self, outputs: Iterable[Output] = (), *, period: float = PERIOD) -> None:
        self._period = period
        self._limit = RateLimit(period)
        self._recent: deque[_Item] = deque(maxlen=MAX_QUEUE)
        self._audience = _Audience(outputs, self._recent.append)
        self._inbox: deque[tuple[float, Event | None]] = deque(maxlen=MAX_QUEUE)
        self._sorting = native("_thread", "allocate_lock")()
        self._courier = Courier(self._deliver, "sockguard-log")
        self._n_lost_told = 0

    @property
    def recent(self) -> list[tuple[float, Event]]:
        """The last thousand events that were told, the oldest first, each with its instant."""
        return [(item.told_at, item.event) for item in tuple(self._recent)]

    def add_listener(self, listener: Listener) -> None:
        """Has a function called with each event, also with those that the outputs are spared.

        It is called on a thread of ours, one event at a time and in their order.
        """
        self._audience.listeners.append(listener)

    def remove_listener(self, listener: Listener) -> None:
        """Undoes `add_listener`, if it was called and the listener is still there."""
        with contextlib.suppress(ValueError):
            self._audience.listeners.remove(listener)

    def tell(self, event: Event, now: float) -> None:
        """Takes an event in; from any thread, at any moment, without waiting or raising."""
        self._inbox.append((now, event))
        self._sort()

    def tick(self, now: float) -> None:
        """Tells what the limit has withheld for long enough; to be called now and then, as `tell` is."""
        self._inbox.append((now, None))
        self._sort()

    def _sort(self) -> None:
        sorting = self._sorting
        while self._inbox and sorting.acquire(False):
            try:
                while self._inbox:
                    self._take_in(*self._inbox.popleft())
            finally:
                sorting.release()
        self._courier.wake()

    def _take_in(self, now: float, event: Event | None) -> None:
        if event and self._audience.listeners:
            self._courier.put(_Item(now, event, is_for_listeners=True))
        try:
            told = self._limit.offer(event, now) if event else self._limit.overdue(now)
        except Exception as error:  # noqa: BLE001 - such as a site that cannot be hashed; the guard must go on
            told = [_failure_of("The telling of events", error, "One event is not in the log.")]
        self._pass_on(told, now)

    def _pass_on(self, events: Iterable[Event], now: float) -> None:
        for event in events:
            item = _Item(now, event, is_for_listeners=False)
            self._recent.append(item)
            if self._audience.is_waiting_for(event):
                self._courier.put(item)

    def _deliver(self, item: _Item) -> None:
        """Runs on the courier's thread."""
        n_lost = self._courier.n_lost - self._n_lost_told
        if n_lost:
            self._n_lost_told += n_lost
            text = f"{n_lost} events were lost, as a log handler or listener took too long"
            failure = _failure_of("The telling of events", TimeoutError(text), "The guard goes on.")
            self._audience.deliver_failure(item.told_at, failure)
        self._audience.deliver(item)

    def pause(self) -> None:
        """Keeps the process free of our thread until `resume`; waits for it to go, half a second at most."""
        self._courier.pause()

    def resume(self) -> None:
        """Undoes one `pause`. What waits is told from the next `tell` or `tick` on."""
        self._courier.resume()

    def after_fork_in_child(self) -> None:
        """Begins anew in a forked child: the parent tells what is its own."""
        self._sorting = native("_thread", "allocate_lock")()
        self._limit = RateLimit(self._period)
        self._inbox.clear()
        self._recent.clear()
        self._courier.forget()

    def flush(self, timeout: float) -> bool:
        """Waits until everything is told, `timeout` seconds at most; tells whether it is."""
        return self._courier.flush(timeout)

    def close(self, timeout: float = 1.0) -> None:
        """Tells what is left, and closes the outputs. It waits for `timeout` seconds at most."""
        now = self._recent[-1].told_at if self._recent else 0.0
        self._pass_on(self._limit.rest(), now)
        if not self.flush(timeout):
            self._courier.work_off_here()
        self._audience.close()


class TellersCounter:
    """Counts for a teller what it need not be told, as it would tell nobody; from any thread, without waiting."""

    def __init__(self, teller: Teller) -> None:
        self._teller = teller

    def counts_only(self, name: EventName, site: Hashable, now: float) -> bool:
        """Tells whether one more event of an origin would be withheld and only counted, and nobody else wants it."""
        teller = self._teller
        return not teller._audience.listeners and teller._limit.is_withheld(name, site, now)  # noqa: SLF001 - its own

    def count(self, name: EventName, site: Hashable) -> bool:
        """Counts an event that was not made; False if that cannot be, so that it has to be made and told."""
        teller = self._teller
        if not teller._sorting.acquire(False):  # noqa: SLF001
            return False
        try:
            return teller._limit.count(name, site)  # noqa: SLF001
        finally:
            teller._sorting.release()  # noqa: SLF001
            teller._sort()  # noqa: SLF001 - who came meanwhile has left his event to us


def _may_want(output: Output, event: Event) -> bool:
    try:
        return output.wants(event)
    except Exception:  # noqa: BLE001 - then let it raise where it is taken out for it
        return True


def _hand_over(item: _Item, receiver: object) -> None:
    if item.is_for_listeners:
        cast("Listener", receiver)(item.event)
    elif cast("Output", receiver).wants(item.event):
        cast("Output", receiver).emit(item.event)


def _failure_of(where: str, error: Exception, outcome: str) -> Event:
    try:
        text = f"{type(error).__name__}: {error}"
    except Exception:  # noqa: BLE001 - an exception whose text cannot be made
        text = type(error).__name__
    return make_event(
        EventName.GUARD_FAILED, site=where, where=where, error=text[:MAX_TEXT], outcome=outcome, pid=os.getpid()
    )


def _name_of(receiver: object) -> str:
    named = receiver if hasattr(receiver, "__qualname__") else type(receiver)
    kind = "Listener" if callable(receiver) and not hasattr(receiver, "emit") else "Output"
    return f"{kind} {named.__module__}.{named.__qualname__}"
