"""Whose connection was it? Asked when it is over, and getpeername(2) says ENOTCONN.

A reset, or a FIN each way, leaves a socket in state CLOSE, and the peer's address in it. getpeername()
tells it of a connection that is up only; getsockopt(SO_PEERNAME) tells it as long as the
socket is there: `inet_getname` (net/ipv4/af_inet.c) looks at the state where it is asked by
the former, and not by the latter.
"""

import contextlib
import socket
import sys
from typing import Any

from sockguard._core.facts import Address

__all__ = ["read_last_peer", "read_peer_name"]

SO_PEERNAME = 28
"""asm-generic/socket.h; Python has no name for it. MIPS, PA-RISC and SPARC have other numbers."""
_PLACES = {
    int(socket.AF_INET6): (28, slice(8, 24)),
    int(socket.AF_INET): (16, slice(4, 8)),
}
"""By family: the size of its `sockaddr`, and where the host is in that; the port is always in bytes 2 and 3.

The longer one first: to be asked for more than there is, is an error, and for less gives a part.
"""


def read_peer_name(sock: Any) -> Any:  # noqa: ANN401 - as socket.getpeername(), of whatever family
    """Gives what getpeername() gives, also after the end.

    Raises:
        OSError: It never had a peer, or is closed.
    """
    try:
        return sock.getpeername()
    except OSError:
        if (last := _read_last_name(sock)) is None:
            raise
        return last


def read_last_peer(sock: Any) -> Address | None:  # noqa: ANN401 - a socket, or what a loop gives in place of one
    """Reads the address of the peer, also after the end; None where that is not told."""
    last = _read_last_name(sock)
    return None if last is None else Address(*last[:2])


def _read_last_name(sock: Any) -> tuple[Any, ...] | None:  # noqa: ANN401 - as above
    if sys.platform != "linux":
        return None
    for family, (size, host_at) in _PLACES.items():  # by its own answer: a socket object may not know its family
        with contextlib.suppress(OSError):  # closed; never connected; of another family
            raw = sock.getsockopt(socket.SOL_SOCKET, SO_PEERNAME, size)
            # Or on this machine the number stands for something else.
            if len(raw) == size and int.from_bytes(raw[:2], sys.byteorder) == family:
                name = socket.inet_ntop(family, raw[host_at]), int.from_bytes(raw[2:4], "big")
                flow_and_scope = int.from_bytes(raw[4:8], "big"), int.from_bytes(raw[24:], sys.byteorder)
                return name + flow_and_scope if family == socket.AF_INET6 else name
    return None
