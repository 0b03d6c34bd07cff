"""Is a number that the guard has taken still its own? A blank socket tells.

A program that turns itself into a daemon closes all descriptors, also those it has not
opened, and the next file that it opens gets such a number. To use or close that number
then would hit a file of the program. So the guard puts a socket that nobody uses at its
numbers, and asks for the cookie before it touches one: no other socket has it, and what
is no socket has none.

It is a Unix socket, as an unconnected TCP socket looks like a dead connection from outside.
"""

import _socket
import os
import socket

from sockguard._kernel.one_socket import SO_COOKIE

__all__ = ["Blank"]

_SOCKET = socket.SOL_SOCKET


class Blank:
    """A socket that is only there to hold a number.

    Args:
        twin: Another one; then this is a duplicate of it, to put a TCP connection in its place now and then.

    Raises:
        OSError: EMFILE, if no descriptor is left.
    """

    __slots__ = ("_cookie", "socket")

    def __init__(self, twin: "Blank | None" = None) -> None:
        if twin is None:
            self.socket = _socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        else:
            # Family and type are claims. IPv6 makes room for addresses of both families, and
            # "non-blocking" keeps setdefaulttimeout() out of it (see pidfd.py).
            claims = (socket.AF_INET6, socket.SOCK_STREAM | socket.SOCK_NONBLOCK, 0)
            self.socket = _socket.socket(*claims, fileno=os.dup(twin.fileno()))
        self._cookie = self.socket.getsockopt(_SOCKET, SO_COOKIE, 8)

    def fileno(self) -> int:
        """Tells the number; -1 after `close`."""
        return self.socket.fileno()

    @property
    def is_ours(self) -> bool:
        """Tells whether the number is still this socket, and not closed or the program's by now."""
        return self.is_ours_as(self)

    def is_ours_as(self, twin: "Blank") -> bool:
        """Tells the same of two at once: the guard asks before each look."""
        try:
            ours, other = self.socket.getsockopt(_SOCKET, SO_COOKIE, 8), twin.socket.getsockopt(_SOCKET, SO_COOKIE, 8)
        except OSError:
            return False
        return ours == self._cookie == other

    def close(self) -> None:
        """Gives the number back, unless it belongs to somebody else by now."""
        if self.is_ours:
            self.socket.close()
        else:
            self.socket.detach()

    def __del__(self) -> None:
        if hasattr(self, "socket"):  # not if there was no descriptor for it
            self.close()
