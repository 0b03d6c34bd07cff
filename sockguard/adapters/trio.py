"""trio, if it was imported before the guard was installed: it takes `socket.socket.accept` as it finds it then.

One that is imported later finds the wrapped one. Its other methods ask the socket for them.
"""

import socket
import sys
from collections.abc import Callable
from typing import Any

from sockguard._engine.guard import Guard
from sockguard._engine.hooks import Hook, Replacement

__all__ = ["hooks"]


def hooks(_: Guard) -> list[Hook]:
    """Lists what is wrapped in trio: nothing, unless it is there and made as we know it."""
    module = sys.modules.get("trio._socket")
    if not hasattr(module, "_make_simple_sock_method_wrapper") or not hasattr(module, "_core"):
        return []

    def make(_: Callable[..., Any]) -> Callable[..., Any]:
        made: Any = module
        return made._make_simple_sock_method_wrapper(  # type: ignore[no-any-return]  # noqa: SLF001 - as trio does it
            socket.socket.accept,
            made._core.wait_readable,  # noqa: SLF001
        )

    return [Hook("trio._socket", "_SocketType._accept", Replacement(make))]
