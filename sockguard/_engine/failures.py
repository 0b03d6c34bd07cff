"""What fails in the guard itself is told, the first few times, and stays in it."""

import os
from collections.abc import Callable, Iterable

from sockguard._core.events import Event, EventName, make_event
from sockguard._kernel.natives import monotonic

__all__ = ["MAX_FAILURES", "Failures"]

_now = monotonic
MAX_FAILURES = 10
"""Failures of the guard's own that are told; a guard that fails at each tick must not fill a disk."""


class Failures:
    """Tells of failures of the guard's own.

    Args:
        tell: Called with each event and the time.
    """

    def __init__(self, tell: Callable[[Event, float], object]) -> None:
        self.count = 0
        self._tell = tell

    def survive(self, where: str, parts: Iterable[Callable[[], object]]) -> bool:
        """Does one part after the other, though some fail, which is told; gives whether one of them returned True."""
        has_more = False
        for part in parts:
            try:
                has_more |= part() is True
            except Exception as error:  # noqa: BLE001 - the guard survives its own mistakes
                self(where, error)
        return has_more

    def __call__(self, where: str, error: BaseException) -> None:
        """Tells of one.

        Args:
            where: Which part of the guard has failed.
        """
        self.count += 1
        if self.count > MAX_FAILURES:
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
