"""The guard of this process, if there is one; and how the wrappers get one where nothing is installed."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # whoever only asks need not load it
    from collections.abc import Callable

    from sockguard._engine.guard import Guard

__all__ = ["current_guard", "set_current_guard", "set_maker", "shared_guard"]

_guard: "Guard | None" = None
_make: "Callable[[bool], Guard] | None" = None


def current_guard() -> "Guard | None":
    """Gives the guard of this process; None if there is none."""
    return _guard


def set_current_guard(guard: "Guard | None") -> None:
    """Takes note of the guard of this process."""
    global _guard  # noqa: PLW0603 - process-wide is the point
    _guard = guard


def shared_guard(*, thread: bool = True) -> "Guard":
    """Gives the guard of this process; makes one with the policy of the environment, and no patches, if there is none.

    Args:
        thread: Whether it needs a thread of its own; if not, the caller drives it.

    Raises:
        PolicyError: A variable of the environment makes no sense.
    """
    assert _make is not None  # noqa: S101 - whatever exports a wrapper imports _process
    return _make(thread)


def set_maker(make: "Callable[[bool], Guard]") -> None:
    """Takes note of how the guard of this process is made, which joins it to outputs: the engine knows of none."""
    global _make  # noqa: PLW0603
    _make = make
