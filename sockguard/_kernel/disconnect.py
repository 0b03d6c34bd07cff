"""How is a connection reset that only its owner may close? By connect() to nowhere.

connect(2) with AF_UNSPEC dissolves the association; on a TCP connection the kernel sends
a RST if there is a peer to tell (net/ipv4/tcp.c, `tcp_disconnect`). What the peer sent
and nobody read is lost, which is what a reset is, and why it is opt-in.

Linux 6.4 and 6.5, and older ones with their patches, refuse it while a thread waits for
that socket (4faeee0cf8a5, taken back by 419ce133ab92). There it gets a FIN.
"""

import _socket
import errno
import os
import socket

__all__ = ["reset"]


def reset(sock: _socket.socket) -> None:
    """Resets a connection, whoever else holds it.

    Raises:
        OSError: It is closed.
    """
    import ctypes  # noqa: PLC0415 - 8 ms that a plain import of sockguard should not pay

    nowhere = bytes(16)  # struct sockaddr whose family is AF_UNSPEC, 0
    if ctypes.CDLL(None, use_errno=True).connect(sock.fileno(), nowhere, len(nowhere)) != 0:
        number = ctypes.get_errno()
        if number == errno.EBUSY:
            sock.shutdown(socket.SHUT_RDWR)
            return
        raise OSError(number, os.strerror(number))
