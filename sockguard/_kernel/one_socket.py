"""What can be asked of a single TCP socket through a descriptor of ours, lent or own?

It is how a socket is looked at that no table lists (its connection is over, or it lives
in another network namespace), and how one is made sure of right before acting on it.
"""

import _socket
import socket
import sys
from typing import Any, Protocol

from sockguard._core.facts import Address, SocketFacts, TcpState
from sockguard._kernel.natives import system
from sockguard._kernel.peer_name import read_peer_name
from sockguard._kernel.tcp_info import read_tcp_info
from sockguard._kernel.unread import count_unread

__all__ = ["fd_of", "find_cookie", "read_cookie", "read_facts", "read_unread"]

SO_COOKIE = 57
"""asm-generic/socket.h (Linux 4.12); Python has no name for it. SPARC and PA-RISC have other numbers."""
TIMER_KEEPALIVE = 2
_Raw = _socket.socket
_fileno = _Raw.fileno


class HasNumber(Protocol):
    """A socket, or what an event loop gives in place of one."""

    def fileno(self) -> int:
        """Its descriptor; -1 if it has none."""


def fd_of(sock: HasNumber) -> int:
    """Tells the number of a socket.

    `GuardedSocket.fileno()` takes note that its number was handed out; this is no handing out.
    """
    return _fileno(sock) if isinstance(sock, _Raw) else int(sock.fileno())


def read_cookie(sock: _socket.socket) -> int:
    """Reads SO_COOKIE, the number that no other socket has until the next boot.

    Raises:
        OSError: The descriptor is closed.
    """
    return int.from_bytes(sock.getsockopt(socket.SOL_SOCKET, SO_COOKIE, 8), sys.byteorder)


def find_cookie(owner: Any) -> int | None:  # noqa: ANN401 - anything, that is the point
    """Reads SO_COOKIE of whatever owns a connection; None if that is closed, or is no socket."""
    try:
        return read_cookie(owner)
    except (AttributeError, OSError, TypeError):
        return None


def read_facts(sock: _socket.socket, *, netns: int = 0) -> SocketFacts | None:
    """Reads the facts of one connection; None if it is no TCP socket, or never was connected.

    A TCP socket that is over has the same state, CLOSE, as one that never connected. What
    tells them apart is that packets came in (`tcpi_segs_in`, Linux 4.2), and more than
    the reset that refused a connect(), after which no round trip was ever measured.

    Of a peer's FIN it cannot be told here whether it was read; an empty queue is taken for
    one that holds just the FIN.

    Args:
        netns: Inode of its network namespace, for the record.

    Raises:
        OSError: The descriptor is closed.
    """
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return None
    try:
        info = read_tcp_info(sock)
    except OSError:
        return None  # UDP, SCTP, SMC
    if not info.segs_in or info.was_refused:
        return None
    status = system.fstat(fd_of(sock))
    hung_up = info.state == TcpState.CLOSE_WAIT
    return SocketFacts(
        state=info.state,
        local=_address(sock.getsockname()),
        remote=_peer(sock),
        inode=status.st_ino,
        cookie=read_cookie(sock),
        uid=status.st_uid,
        recv_queue=read_unread(sock) + hung_up,
        send_queue=0,
        timer=TIMER_KEEPALIVE if sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) else 0,
        interface=0,
        netns=netns,
        info=info,
    )


def _address(name: tuple[object, ...]) -> Address:
    host, port = name[:2]
    return Address(str(host).partition("%")[0], int(str(port)))


def _peer(sock: _socket.socket) -> Address | None:
    try:
        return _address(read_peer_name(sock))
    except OSError:
        return None


def read_unread(sock: _socket.socket) -> int:
    """Reads how many bytes wait to be read, a FIN not counted (SIOCINQ of tcp(7)).

    Raises:
        OSError: The descriptor is closed.
    """
    return count_unread(fd_of(sock))
