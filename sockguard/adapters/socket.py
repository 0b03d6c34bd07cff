"""Sockets, explicitly guarded: the class, how a plain socket becomes one, and a listener that accepts such.

The class itself is in the engine, as the mix-in for socketserver builds on it too.
"""

import socket
from typing import Any

from sockguard._core.policy import Policy
from sockguard._engine.sockets.guarded_socket import GuardedSocket, guard_socket, keep_alive
from sockguard._engine.terms import check_policy

__all__ = ["GuardedSocket", "create_server", "guard_socket"]

_create_server = socket.create_server


def create_server(address: Any, *, policy: Policy | None = None, **options: Any) -> GuardedSocket:
    """Makes a listener as `socket.create_server`; its accept() gives guarded sockets.

    Keepalive is set on the listener, so that what it accepts has it from the kernel.

    Args:
        address: As for the original, like `options`.
        policy: What is wanted of the connections; None for what the process's guard wants.

    Raises:
        UsageError: `policy` is no policy.
        OSError: As the original, like ValueError.
    """
    check_policy(policy)
    listener = guard_socket(_create_server(address, **options), policy)
    keep_alive(listener)
    return listener
