"""How many bytes wait to be read? FIONREAD, on every system.

It takes no byte, and does not wait. A FIN is not counted. Linux: SIOCINQ of tcp(7) and unix(7).
"""

import struct

try:
    from fcntl import ioctl
    from termios import FIONREAD
except ImportError:  # Windows
    pass

__all__ = ["count_unread"]

WINSOCK_FIONREAD = 0x4004667F
"""winsock2.h."""
_HAS_IOCTL = "ioctl" in globals()
_unpack = struct.Struct("=i").unpack


def count_unread(fd: int) -> int:
    """Counts the bytes that wait at a descriptor.

    Raises:
        OSError: It is closed, or no socket. Windows gives 0 then.
        ValueError: It is negative.
    """
    if not _HAS_IOCTL:
        return _ask_winsock(fd)
    count = bytearray(4)  # bytes would be copied three times
    ioctl(fd, FIONREAD, count)
    return int(_unpack(count)[0])


def _ask_winsock(fd: int) -> int:
    """Asks Windows; `socket.ioctl` of Python refuses that question."""
    import ctypes  # noqa: PLC0415 - 8 ms that a plain import of sockguard should not pay

    count = ctypes.c_ulong(0)
    winsock = getattr(ctypes, "windll").ws2_32  # noqa: B009 - a checker that is not on Windows knows no such name
    winsock.ioctlsocket(ctypes.c_size_t(fd), ctypes.c_long(WINSOCK_FIONREAD), ctypes.byref(count))
    return count.value  # still 0 if it refuses: of a connection that is over there is nothing to read
