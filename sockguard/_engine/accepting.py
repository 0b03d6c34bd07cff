"""What is the same of each accept() and connect(), wrapped by `install()` or a guarded socket's own."""

import errno
from collections.abc import Callable
from typing import Any

from sockguard._core.connection import Reason
from sockguard._core.inference import Side
from sockguard._engine.guard import Guard
from sockguard._kernel.activity import is_over

__all__ = ["UNDER_WAY", "shed"]

UNDER_WAY = (0, errno.EINPROGRESS, errno.EALREADY, errno.EINTR, errno.EISCONN, getattr(errno, "WSAEWOULDBLOCK", 0))
"""What connect_ex() says of a connection that is made, or on its way."""


def shed(guard: Guard, listener: Any, accepted: tuple[Any, Any], accept: Callable[[Any], Any]) -> Any:
    """Closes accepted connections that are over and empty, as long as accept() gives another at once; and tells of it.

    Only for a listener whose accept() never waits: its program expects that nobody is
    there after all (BlockingIOError). One that waits could wait for ever.

    Args:
        accepted: What accept() has given, a socket and an address.
        accept: Accepts another one, of the listener.

    Returns:
        The first that is not over.

    Raises:
        OSError: As `accept`.
    """
    while listener.gettimeout() == 0 and is_over(accepted[0]):
        ending = guard.endings.of(accepted[0], None, Reason.PRESSURE)
        accepted[0].close()
        ending.tell(ending.verdict("shed_dead_on_accept", seconds=0.0), "closed", side=Side.SERVER)
        accepted = accept(listener)
    return accepted
