"""What an adapter wants put in front of a function of somebody else's."""

from collections.abc import Callable
from typing import Any, NamedTuple

__all__ = ["Hook", "Replacement", "Wrapper"]

Wrapper = Callable[[Callable[..., Any], Any, tuple[Any, ...], dict[str, Any]], Any]
"""As wrapt calls it: the wrapped function, the instance that it is bound to, and its arguments."""


class Replacement(NamedTuple):
    """A plain function in the place of another: for what runs with each connection, as wrapt takes 0.5 us a call."""

    make: Callable[[Callable[..., Any]], Callable[..., Any]]
    """Given the original, makes the function that calls it."""


class Hook(NamedTuple):
    """One function to wrap."""

    module: str
    name: str
    """The dotted path within the module."""
    wrapper: Wrapper | Replacement
