"""What is told at the start, before many a program has set its log up: it waits until the log would take it."""

import contextlib
from collections import deque
from collections.abc import Callable

from sockguard._core.events import Event
from sockguard._engine.telling import Output

__all__ = ["Foreword"]

MAX_WAITING = 100
"""Events that wait; a guard has one of them, and one for each variable that is misspelled."""


class Foreword:
    """Keeps events until an output wants them, and tells them then.

    Args:
        output: Whom they are for.
        tell: Called with each event and the instant of the tick at which it was wanted.
    """

    def __init__(self, output: Output, tell: Callable[[Event, float], object]) -> None:
        self._output = output
        self._tell = tell
        self._waiting: deque[Event] = deque(maxlen=MAX_WAITING)

    def add(self, event: Event, now: float) -> None:
        """Takes an event in, and tells it at once if it is wanted already; from any thread, without waiting."""
        self._waiting.append(event)
        self.tick(now)

    def tick(self, now: float) -> None:
        """Tells what is wanted by now; two threads may do so at once."""
        with contextlib.suppress(IndexError):
            for _ in range(len(self._waiting)):
                event = self._waiting.popleft()
                if self._is_wanted(event):
                    self._tell(event, now)
                else:
                    self._waiting.append(event)

    def _is_wanted(self, event: Event) -> bool:
        try:
            return self._output.wants(event)
        except Exception:  # noqa: BLE001 - where it is told, one that raises is taken out for it
            return True

    def after_fork_in_child(self) -> None:
        """Leaves to the parent what it was to tell."""
        self._waiting.clear()
