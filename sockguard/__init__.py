"""sockguard finds the TCP connections that a Python server forgot to close, ends them, and keeps them from coming back.

>>> import sockguard
>>> sockguard.find_leaks()
[]
>>> with sockguard.install(fin_timeout=30):
...     pass
"""

import importlib
from typing import TYPE_CHECKING

from sockguard._api import find_leaks
from sockguard._core.leaks import Cause, Leak
from sockguard.errors import InternalError, KernelUnavailable, PolicyError, SockguardError, UsageError

if TYPE_CHECKING:
    from sockguard._core.policy import Heartbeat, Keepalive, Policy
    from sockguard._engine.dump import register, unregister
    from sockguard._engine.guard import Guard
    from sockguard.patch import install, uninstall
    from sockguard.testing import SocketLeakError, no_socket_leaks
    from sockguard.wrappers import (
        GuardedConnection,
        GuardedSelector,
        GuardedServerMixin,
        GuardedSocket,
        create_server,
        guard_socket,
    )

__version__ = "0.1.0"

__all__ = [
    "Cause",
    "Guard",
    "GuardedConnection",
    "GuardedSelector",
    "GuardedServerMixin",
    "GuardedSocket",
    "Heartbeat",
    "InternalError",
    "Keepalive",
    "KernelUnavailable",
    "Leak",
    "Policy",
    "PolicyError",
    "SocketLeakError",
    "SockguardError",
    "UsageError",
    "__version__",
    "create_server",
    "find_leaks",
    "guard_socket",
    "install",
    "no_socket_leaks",
    "register",
    "uninstall",
    "unregister",
]

_LATE = {
    "Guard": "sockguard._engine.guard",
    "Heartbeat": "sockguard._core.policy",
    "Keepalive": "sockguard._core.policy",
    "Policy": "sockguard._core.policy",
    "SocketLeakError": "sockguard.testing",
    "install": "sockguard.patch",
    "no_socket_leaks": "sockguard.testing",
    "register": "sockguard._engine.dump",
    "uninstall": "sockguard.patch",
    "GuardedConnection": "sockguard.wrappers",
    "GuardedSelector": "sockguard.wrappers",
    "GuardedServerMixin": "sockguard.wrappers",
    "GuardedSocket": "sockguard.wrappers",
    "create_server": "sockguard.wrappers",
    "guard_socket": "sockguard.wrappers",
    "unregister": "sockguard._engine.dump",
}
"""What is imported when it is first used: looking for leaks needs no guard, and takes a third of the time to import."""


def __getattr__(name: str) -> object:
    if name not in _LATE:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    globals()[name] = value = getattr(importlib.import_module(_LATE[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
