"""How tests wait: for a condition, never for a span of time."""

import time
from collections.abc import Callable
from typing import TypeVar

__all__ = ["eventually"]

T = TypeVar("T")

TIMEOUT = 20.0
"""Seconds; what is waited for takes milliseconds, so this is only met by a bug or a stopped machine."""


def eventually(predicate: Callable[[], T], *, timeout: float = TIMEOUT) -> T:
    """Waits until the predicate is true and returns what it returned.

    Raises:
        AssertionError: It was not, within `timeout` seconds; the last result is named.
    """
    give_up_at = time.monotonic() + timeout
    pause = 0.0002
    while not (result := predicate()):
        if time.monotonic() > give_up_at:
            raise AssertionError(f"still {result!r} after {timeout} s")
        time.sleep(pause)
        pause = min(pause * 2, 0.02)
    return result
