"""What does the kernel say right now of one connection that the guard watches?

Three calls, some 2 us: TCP_INFO, and the fill of both queues (SIOCINQ and SIOCOUTQ, tcp(7)).
"""

import _socket
import socket
import struct

from sockguard._core.connection import Activity
from sockguard._core.facts import TcpState
from sockguard._kernel.one_socket import fd_of
from sockguard._kernel.tcp_info import read_tcp_info

try:
    from fcntl import ioctl
    from termios import FIONREAD, TIOCOUTQ
except ImportError:  # Windows, where this file must import
    pass

__all__ = ["is_over", "read_activity", "was_ever_connected"]

_unpack_queue = struct.Struct("=i").unpack
_FIELDS = struct.Struct("=B 51x I I 60x Q Q")
"""state; 52: last_data_recv, last_ack_recv; 120: bytes_acked, bytes_received: the part of tcp_info.py needed here."""
_SIZE = _FIELDS.size
_unpack_info = _FIELDS.unpack
_new = tuple.__new__


def read_activity(sock: _socket.socket) -> Activity:
    """Reads what one TCP socket has done so far.

    Raises:
        OSError: It is no TCP socket, or closed.
    """
    raw = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _SIZE)
    state, received_ms, heard_ms, acked, received = _unpack_info(raw.ljust(_SIZE, b"\0"))
    fd, count = fd_of(sock), bytearray(4)  # bytes would be copied three times
    ioctl(fd, FIONREAD, count)
    (unread,) = _unpack_queue(count)
    ioctl(fd, TIOCOUTQ, count)
    (unsent,) = _unpack_queue(count)
    return _new(Activity, (state, received, acked, unread, unsent, received_ms / 1e3, heard_ms / 1e3, False))


def was_ever_connected(sock: _socket.socket) -> bool:
    """Tells whether a socket in state CLOSE once was a connection.

    One that never connected is in that state too, as is one whose connect() was refused:
    that got a single packet, and no round trip was ever measured.

    Raises:
        OSError: It is no TCP socket, or closed.
    """
    info = read_tcp_info(sock)
    return bool(info.segs_in) and not info.was_refused and bool(info.bytes_acked or info.bytes_received or info.rtt)


def is_over(sock: _socket.socket) -> bool:
    """Tells whether the peer has hung up and left nothing to read; False if it cannot be told."""
    try:
        activity = read_activity(sock)
    except OSError:
        return False
    return activity.state in (TcpState.CLOSE, TcpState.CLOSE_WAIT) and activity.unread == 0
