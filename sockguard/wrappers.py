"""The drop-in classes and functions of sockguard, joined to the guard of this process.

All of them are exported by the package itself: `sockguard.GuardedSocket` and so on.
"""

import sockguard._process  # noqa: F401 - makes the guard that they share
from sockguard._engine.handle import GuardedConnection
from sockguard.adapters.selectors.selector import GuardedSelector
from sockguard.adapters.socket import GuardedSocket, create_server, guard_socket
from sockguard.adapters.socketserver import GuardedServerMixin

__all__ = [
    "GuardedConnection",
    "GuardedSelector",
    "GuardedServerMixin",
    "GuardedSocket",
    "create_server",
    "guard_socket",
]
