"""How does the kernel probe a silent peer? SO_KEEPALIVE, TCP_KEEP* and TCP_USER_TIMEOUT: read, and set with respect.

Facts (socket(7), tcp(7), net/ipv4/tcp.c and tcp_timer.c of Linux 6.18). Idle and interval
are whole seconds from 1 to 32767, the count 1 to 127, anything else is EINVAL; the user
timeout is an int of milliseconds, 0 for none. All are inherited from the listener by the
sockets that accept() gives. One that was never set reads as the sysctl of its network
namespace, so that "set to the default" cannot be told from "not set". SO_KEEPALIVE itself
can be set on any socket, a Unix one included, and does nothing there.

Danger: a user timeout takes the place of the count. With TCP_USER_TIMEOUT=5000, which
limits how long sent data may stay unacknowledged, a single lost probe ends a connection
that was merely idle - but only once somebody turns SO_KEEPALIVE on.

Elsewhere. macOS has another name for idle. Windows has had these names since 10 (1709); before,
one ioctl sets idle and interval, in milliseconds, and the count is 10 (SIO_KEEPALIVE_VALS).

Choice: what the application has set is its own and stays. Only the rest is set, and
nothing at all where SO_KEEPALIVE is on already, or where the result would be that danger.
"""

import _socket
import errno
import functools
import math
import socket
from typing import NamedTuple

from sockguard._core.policy import Keepalive

__all__ = ["KeepaliveOptions", "apply_keepalive", "read_keepalive"]

# The names are missing where the system has no such option; macOS calls the first one otherwise.
IDLE: int | None = getattr(socket, "TCP_KEEPIDLE", getattr(socket, "TCP_KEEPALIVE", None))
INTERVAL: int | None = getattr(socket, "TCP_KEEPINTVL", None)
COUNT: int | None = getattr(socket, "TCP_KEEPCNT", None)
USER_TIMEOUT: int | None = getattr(socket, "TCP_USER_TIMEOUT", None)
VALUES: int | None = getattr(socket, "SIO_KEEPALIVE_VALS", None)
_OPTIONS = (IDLE, INTERVAL, COUNT, USER_TIMEOUT)

_NOT_TCP = {errno.ENOPROTOOPT, errno.EOPNOTSUPP, errno.EINVAL}
"""What other protocols say to an option of TCP: UDP and Unix on Linux the second, SCTP the first, macOS the third."""


class KeepaliveOptions(NamedTuple):
    """What is in force on a socket, whoever set it."""

    is_on: bool
    idle: int
    """Seconds, as the next."""
    interval: int
    probes: int
    user_timeout: float | None
    """Seconds; None if there is none."""


def read_keepalive(sock: _socket.socket) -> KeepaliveOptions | None:
    """Reads what is in force; None if it is no TCP socket.

    Raises:
        OSError: The descriptor is closed.
    """
    values = _read_options(sock) if _may_be_tcp(sock) else None
    if values is None:
        return None
    idle, interval, probes, milliseconds = values
    return KeepaliveOptions(_is_on(sock), idle, interval, probes, milliseconds / 1000 or None)


def apply_keepalive(sock: _socket.socket, keepalive: Keepalive) -> bool:
    """Turns keepalive on, unless the application has; tells whether it did.

    It does not either where it cannot tell what the application has set, for want of a descriptor.
    One system call where it is on already, else nine, or ten with a user timeout.

    Raises:
        OSError: The descriptor is closed, or a sandbox refuses.
    """
    if not _may_be_tcp(sock) or _is_on(sock):
        return False
    theirs = _read_options(sock)
    if theirs is None:
        return False
    unset = _find_unset(theirs)
    wanted = _merge(theirs, unset, keepalive) if unset else []
    if not wanted or 0 < wanted[3] < 1000 * (wanted[0] + wanted[1]):
        return False
    for option, now, value in zip(_OPTIONS, theirs, wanted, strict=True):
        if option is not None and value != now:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
    if IDLE is None and VALUES is not None:
        getattr(sock, "ioctl")(VALUES, (1, 1000 * wanted[0], 1000 * wanted[1]))  # noqa: B009 - only Windows has it
    # Last, as it starts the timer with what is set by then (`tcp_set_keepalive`).
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    return True


def _find_unset(theirs: tuple[int, ...]) -> tuple[int, ...] | None:
    """Tells what options have that nobody set; None if that cannot be found out, with all descriptors used up."""
    try:
        if theirs[:3] != _read_defaults()[:3]:  # set by the application; or the sysctl has changed since it was read
            _read_defaults.cache_clear()
        return _read_defaults()
    except OSError:
        return None


def _merge(theirs: tuple[int, ...], unset: tuple[int, ...], keepalive: Keepalive) -> list[int]:
    # Rounded up: 0 would stand for none.
    milliseconds = math.ceil((keepalive.user_timeout or 0) * 1000)
    ours = (keepalive.idle, keepalive.interval, keepalive.count, milliseconds)
    return [our if now == default else now for now, default, our in zip(theirs, unset, ours, strict=True)]


def _may_be_tcp(sock: _socket.socket) -> bool:
    # The type is no help: of a borrowed socket it is what the borrower claimed.
    return sock.family in (socket.AF_INET, socket.AF_INET6)


def _is_on(sock: _socket.socket) -> bool:
    return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))


def _read_options(sock: _socket.socket) -> tuple[int, ...] | None:
    """Reads the four options, 0 for one that this system lacks; None if the socket is not TCP."""
    try:
        return tuple(0 if name is None else sock.getsockopt(socket.IPPROTO_TCP, name) for name in _OPTIONS)
    except OSError as error:
        if error.errno in _NOT_TCP:
            return None
        raise


@functools.cache
def _read_defaults() -> tuple[int, ...]:
    """Reads what a socket has on which nothing was set.

    Asked of a fresh one, not of /proc/sys: that may be hidden, and exists on Linux only. It
    is `_socket.socket` lest a guard or gevent, which replace `socket.socket`, take it for
    one of the application's.
    """
    fresh = _socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        return _read_options(fresh) or (0,) * len(_OPTIONS)
    finally:
        fresh.close()
