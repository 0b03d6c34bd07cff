"""Which transport owns a connection, and how is it asked to let go?

The descriptor of an asyncio or uvloop connection belongs to a transport, and only
`transport.abort()`, on the loop's own thread, closes it in a way that loop and protocol
understand. asyncio keeps its transports by descriptor in `loop._transports` (a private
name, pinned by tests/engine/test_transports.py for each Python). Of uvloop the transport
itself was adopted.
"""

from collections.abc import Callable
from typing import Any

from sockguard._engine.record import Record

__all__ = ["ask_to_abort", "fd_of_transport", "find_transport", "socket_of"]


def find_transport(record: Record, loop: Any) -> Any:
    """Finds the transport that owns a connection now; None if there is none. On the loop's thread only."""
    owner = record()
    if hasattr(owner, "get_extra_info"):
        return owner if fd_of_transport(owner) == record.fd else None
    transport = getattr(loop, "_transports", {}).get(record.fd)
    return transport if transport is not None and fd_of_transport(transport) == record.fd else None


def socket_of(transport: Any) -> Any:
    """Gives what a transport gives as its socket; None if it has none any more, or is none."""
    try:
        return None if transport is None else transport.get_extra_info("socket")
    except AttributeError:  # a protocol; or asyncio's TLS transport that was closed twice
        return None


def fd_of_transport(transport: Any) -> int:
    """Tells the descriptor of a transport; -1 if it is closed."""
    sock = socket_of(transport)
    return -1 if sock is None else int(sock.fileno())


def ask_to_abort(record: Record, is_due: Callable[[Record], bool], on_nobody: Callable[[Record], object]) -> bool:
    """Asks the loop of a connection to abort it, on its own thread and in its own time.

    Args:
        is_due: Asked on the loop's thread right before: is it still that connection, and has it not moved?
        on_nobody: Called there if no transport owns it.

    Returns:
        False if the loop is closed or gone.
    """
    loop: Any = record.loop.ref() if record.loop is not None else None
    if loop is None:
        return False

    def abort() -> None:
        if not is_due(record):
            return
        transport = find_transport(record, loop)
        if transport is None:
            on_nobody(record)
        else:
            transport.abort()

    try:
        loop.call_soon_threadsafe(abort)
    except RuntimeError:
        return False  # closed
    return True
