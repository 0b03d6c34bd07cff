"""Has the application read the peer's EOF? The memory of the receive queue tells.

SIOCINQ leaves the FIN out. But its packet lies in the receive queue until it is read, as
any other, and is charged to the socket: SO_MEMINFO tells the sum (net/core/sock.c,
`sk_get_meminfo`). The socket's row in the kernel's table tells the same, as its queue
counts the FIN; but to find one row the kernel walks through all, some 1,000 times slower.

What waits in the error queue (time stamps of sent packets, if the program asked for them)
is charged as well. Then an EOF is taken for unread that was read: a close comes later.
"""

import _socket
import errno
import socket
import struct

from sockguard._core.facts import TcpState

__all__ = ["is_eof_unread"]

SO_MEMINFO = 55
"""asm-generic/socket.h (Linux 4.12); Python has no name for it. SPARC and PA-RISC have other numbers."""
_RECEIVE_ALLOCATED = struct.Struct("=I")


def is_eof_unread(sock: _socket.socket, state: int) -> bool:
    """Tells whether the FIN of a connection in CLOSE_WAIT waits to be read; False where it cannot be told.

    Raises:
        OSError: The descriptor is closed.
    """
    if state != TcpState.CLOSE_WAIT:
        return False
    try:
        memory = sock.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, _RECEIVE_ALLOCATED.size)
    except OSError as error:
        if error.errno == errno.ENOPROTOOPT:
            return False
        raise
    return _RECEIVE_ALLOCATED.unpack(memory) > (0,)
