"""The guard of this process, if one is installed."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # whoever only asks need not load it
    from sockguard._engine.guard import Guard

__all__ = ["current_guard", "set_current_guard"]

_guard: "Guard | None" = None


def current_guard() -> "Guard | None":
    """Gives the guard of this process; None if there is none."""
    return _guard


def set_current_guard(guard: "Guard | None") -> None:
    """Takes note of the guard of this process."""
    global _guard  # noqa: PLW0603 - process-wide is the point
    _guard = guard
