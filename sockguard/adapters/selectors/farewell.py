"""How is a connection of a selector let go of? Its owner closes it.

The owner is the object that the program has registered, and to close it is the owner's
business: its own `close()` is called. Where the program has registered a mere number there is
nobody to ask. Then the connection is shut down, on a duplicate whose cookie was checked, and
the number stays the program's.
"""

import _socket
import contextlib
import os
import socket
from selectors import SelectorKey
from typing import Any

from sockguard._kernel.one_socket import fd_of, read_cookie
from sockguard._kernel.pidfd import borrow_socket

__all__ = ["release"]

_Raw = _socket.socket


def release(key: SelectorKey, cookie: int | None) -> bool:
    """Shuts a connection down and has its owner close it; tells whether it is closed now.

    Shut down first: a forked child may hold it as well, and then close() alone sends no FIN.

    Args:
        key: By which it was registered.
        cookie: Which connection it is.

    Raises:
        Exception: Whatever the `close()` of the program's own class raises.
    """
    fileobj: Any = key.fileobj
    if isinstance(fileobj, _Raw):
        with contextlib.suppress(OSError):  # it is over already
            _Raw.shutdown(fileobj, socket.SHUT_RDWR)
        fileobj.close()
        return fd_of(fileobj) != key.fd  # not if a file that was made of it is still open
    close = getattr(fileobj, "close", None)
    if callable(close):
        close()
    return not _shut_down(key.fd, cookie)


def _shut_down(fd: int, cookie: int | None) -> bool:
    """Shuts a connection down if it is still there; tells whether it is."""
    try:
        with borrow_socket(os.getpid(), fd) as sock:
            if cookie is None or read_cookie(sock) != cookie:
                return False
            with contextlib.suppress(OSError):  # it is over already
                sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        return False
    return True
