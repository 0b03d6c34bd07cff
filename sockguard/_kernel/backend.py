"""Who keeps the books of a connection: the kernel (TCP_INFO), or the wrapper itself?

Linux keeps them of TCP connections and of no others. `SOCKGUARD_BACKEND=portable` has the
wrappers do as if it did not, so that the way of other systems is tried out on Linux. It is
read once, when this module is imported: a connection cannot change over in its midst.
"""

import _socket
import os
import socket
import sys
from typing import Protocol

from sockguard.errors import KernelUnavailable

__all__ = ["KERNEL_KEEPS_BOOKS", "VARIABLE", "SocketLike", "family_of", "keeps_books", "require_books"]

VARIABLE = "SOCKGUARD_BACKEND"
"""The environment variable; its only value that says something is `portable`."""
PORTABLE = "portable"

KERNEL_KEEPS_BOOKS: bool = (
    sys.platform == "linux" and hasattr(socket, "TCP_INFO") and os.environ.get(VARIABLE) != PORTABLE
)
"""Whether the kernel of this system keeps books at all, and is to be asked."""

_INET = (socket.AF_INET, socket.AF_INET6)
_PROTOCOLS = (0, socket.IPPROTO_TCP)
"""0 is the default of a stream, which is TCP. SCTP and MPTCP have other numbers, and books of their own."""

_Raw = _socket.socket
# The descriptors of the C class: those of `socket.socket` make an Enum of each number, which costs three times as much.
_family, _type, _proto = _Raw.family.__get__, _Raw.type.__get__, _Raw.proto.__get__


class SocketLike(Protocol):
    """A socket, or what an event loop gives in place of one."""

    @property
    def family(self) -> int:
        """AF_INET and others."""

    @property
    def type(self) -> int:
        """SOCK_STREAM and others."""

    @property
    def proto(self) -> int:
        """IPPROTO_TCP and others; 0 for the usual one."""

    def fileno(self) -> int:
        """Tells its descriptor; -1 if it is closed."""

    def getsockopt(self, level: int, name: int, /) -> int:
        """Reads an option that is a number."""

    def getpeername(self) -> object:
        """Tells the address of the peer."""


def keeps_books(sock: SocketLike) -> bool:
    """Tells whether the kernel keeps the books of a connection; asks it nothing, and costs some 0.3 us."""
    if not KERNEL_KEEPS_BOOKS:
        return False
    if isinstance(sock, _Raw):
        return _family(sock) in _INET and _type(sock) == socket.SOCK_STREAM and _proto(sock) in _PROTOCOLS
    return sock.family in _INET and sock.type == socket.SOCK_STREAM and sock.proto in _PROTOCOLS


def family_of(sock: SocketLike) -> int:
    """Tells the address family as a plain number; to `socket.socket`, an Enum member takes ten times as long."""
    return _family(sock) if isinstance(sock, _Raw) else sock.family


def require_books(what: str) -> None:
    """Refuses to go on where the kernel keeps no books that could be asked.

    Args:
        what: What needs them, for the message.

    Raises:
        KernelUnavailable: This is another system, or the environment says `portable`.
    """
    if KERNEL_KEEPS_BOOKS:
        return
    if sys.platform == "linux":
        raise KernelUnavailable(
            what, f"{VARIABLE}={PORTABLE} is set", f"Unset {VARIABLE} before sockguard is imported."
        )
    remedy = "Use the wrappers, which work anywhere: sockguard.create_server(), sockguard.aio, sockguard.anyio."
    raise KernelUnavailable(what, f"{sys.platform} is not Linux", remedy)
