"""Whose connection was it? Asked when it is over, and getpeername(2) says ENOTCONN.

A reset, or a FIN each way, leaves a socket in state CLOSE, and the peer's address in it. getpeername()
tells it of a connection that is up only; getsockopt(SO_PEERNAME) tells it as long as the
socket is there: `inet_getname` (net/ipv4/af_inet.c) looks at the state where it is asked by
the former, and not by the latter.
"""

import _socket
import socket
import sys

from sockguard._core.facts import Address

__all__ = ["read_last_peer"]

SO_PEERNAME = 28
"""asm-generic/socket.h; Python has no name for it. MIPS, PA-RISC and SPARC have other numbers."""
_PLACES = {
    int(socket.AF_INET): (16, slice(4, 8)),
    int(socket.AF_INET6): (28, slice(8, 24)),
}
"""By family: the size of its `sockaddr`, and where the host is in that; the port is always in bytes 2 and 3."""


def read_last_peer(sock: _socket.socket) -> Address | None:
    """Reads the address of the peer, also after the end; None where that is not told."""
    if sys.platform != "linux" or sock.family not in _PLACES:
        return None
    size, host_at = _PLACES[sock.family]
    try:
        raw = sock.getsockopt(socket.SOL_SOCKET, SO_PEERNAME, size)
    except OSError:
        return None  # closed; never connected
    if len(raw) != size or int.from_bytes(raw[:2], sys.byteorder) != sock.family:
        return None  # on this machine the number stands for something else
    return Address(socket.inet_ntop(sock.family, raw[host_at]), int.from_bytes(raw[2:4], "big")).unmapped
