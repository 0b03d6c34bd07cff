"""Is a number that the guard has taken still its own? A blank socket tells.

A program that turns itself into a daemon closes all descriptors, also those it has not
opened, and the next file that it opens gets such a number. To use or close that number
then would hit a file of the program. So the guard puts a socket that nobody uses at its
numbers, and asks for the cookie before it touches one: no other socket has it, and what
is no socket has none.

It is a Unix socket, as an unconnected TCP socket looks like a dead connection from outside.
"""

import _socket
import socket

from sockguard._kernel.one_socket import SO_COOKIE

__all__ = ["Blank"]

_SOCKET = socket.SOL_SOCKET


class Blank:
    """A socket that is only there to hold a number.

    Raises:
        OSError: EMFILE, if no descriptor is left.
    """

    __slots__ = ("_cookie", "_socket")

    def __init__(self) -> None:
        self._socket = _socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._cookie = self._socket.getsockopt(_SOCKET, SO_COOKIE, 8)

    def fileno(self) -> int:
        """Tells the number; -1 after `close`."""
        return self._socket.fileno()

    @property
    def is_ours(self) -> bool:
        """Tells whether the number is still this socket, and not closed or the program's by now."""
        return self.is_at(self._socket)

    def is_at(self, sock: _socket.socket) -> bool:
        """Tells whether another number is a duplicate of this socket."""
        try:
            return sock.getsockopt(_SOCKET, SO_COOKIE, 8) == self._cookie
        except OSError:
            return False

    def is_also_at(self, sock: _socket.socket) -> bool:
        """Tells the same of both numbers at once: the guard asks before each look."""
        try:
            ours, other = self._socket.getsockopt(_SOCKET, SO_COOKIE, 8), sock.getsockopt(_SOCKET, SO_COOKIE, 8)
        except OSError:
            return False
        return ours == self._cookie == other

    def close(self) -> None:
        """Gives the number back, unless it belongs to somebody else by now."""
        if self.is_ours:
            self._socket.close()
        else:
            self._socket.detach()

    __del__ = close
