"""Which TCP sockets exist, where netlink is refused? /proc/PID/net/tcp and tcp6, as text.

The same records as from `inet_diag`, less what the file does not tell: no TCP_INFO (hence
no ages) and no cookie. It is slower, but it needs no netlink and sees the network
namespace of any process (proc(5)).
"""

import socket
import struct
import sys
from functools import lru_cache

from sockguard._core.facts import Address, SocketFacts
from sockguard._kernel.natives import open_file
from sockguard.errors import InternalError

__all__ = ["parse_net_tcp", "parse_sockstat", "read_net_tcp", "read_socket_count"]

_N_COLUMNS = 10


def parse_net_tcp(text: str, netns: int = 0) -> list[SocketFacts]:
    """Decodes the text of /proc/net/tcp or /proc/net/tcp6.

    Raises:
        InternalError: A line has another form; the line is named.
    """
    _, _, body = text.partition("\n")
    return [_parse_line(line, netns) for line in body.splitlines()]


def _parse_line(line: str, netns: int) -> SocketFacts:
    columns = line.split()
    try:
        _, local, remote, state, queues, timer, _, uid, _, inode = columns[:_N_COLUMNS]
        send, receive = queues.split(":")
        return SocketFacts(
            state=int(state, 16),
            local=_address(local),
            remote=_address(remote),
            inode=int(inode),
            cookie=None,
            uid=int(uid),
            recv_queue=int(receive, 16),
            send_queue=int(send, 16),
            timer=int(timer[:2], 16),
            interface=0,
            netns=netns,
            info=None,
        )
    except ValueError as error:
        msg = f"not a line of /proc/net/tcp: {line[:200]!r}"
        raise InternalError(msg) from error


def _address(text: str) -> Address:
    host, port = text.split(":")
    return Address(_host(host), int(port, 16))


@lru_cache(maxsize=4096)
def _host(text: str) -> str:
    """Decodes an address that the kernel prints as 32-bit words in its own byte order."""
    words = [int(text[i : i + 8], 16) for i in range(0, len(text), 8)]
    family = {1: socket.AF_INET, 4: socket.AF_INET6}.get(len(words))
    if family is None:
        msg = f"an address of {len(text)} hexadecimal digits"
        raise ValueError(msg)
    order = "<" if sys.byteorder == "little" else ">"
    try:
        return socket.inet_ntop(family, struct.pack(f"{order}{len(words)}I", *words))
    except struct.error as error:
        raise ValueError(text) from error


def read_net_tcp(pid: int | str = "self", *, netns: int = 0, proc: str = "/proc") -> list[SocketFacts]:
    """Lists all TCP sockets of a process's network namespace, IPv4 and IPv6.

    Raises:
        OSError: The process is gone, or /proc is not there.
    """
    sockets = []
    for table in ("tcp", "tcp6"):
        try:
            with open_file(f"{proc}/{pid}/net/{table}", encoding="ascii") as file:
                sockets += parse_net_tcp(file.read(), netns)
        except FileNotFoundError:
            if table == "tcp":
                raise  # tcp6 alone is missing where IPv6 is switched off
    return sockets


def parse_sockstat(text: str) -> int:
    """Reads the number of TCP sockets in /proc/net/sockstat or sockstat6; 0 if it is not told."""
    for line in text.splitlines():
        kind, _, rest = line.partition(": inuse ")
        if kind in ("TCP", "TCP6"):
            return int(rest.split()[0])
    return 0


def read_socket_count() -> int:
    """Counts the TCP sockets of this process's network namespace, without listing them.

    Raises:
        OSError: /proc is not mounted, or no descriptor is free.
    """
    count = 0
    for name in ("sockstat", "sockstat6"):
        try:
            with open_file(f"/proc/self/net/{name}", encoding="ascii") as file:
                count += parse_sockstat(file.read())
        except FileNotFoundError:
            continue  # a kernel without IPv6
    return count
