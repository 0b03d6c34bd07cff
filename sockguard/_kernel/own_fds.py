"""Which descriptors of this very process are hung up? One poll() over all of them.

To find the owner of a sick socket one would read 8,000 links in /proc/self/fd, 25 ms. But
the question can be turned round: poll(2) tells in one call, 0.1 us a descriptor, which
of them have a peer that hung up (POLLRDHUP), or no connection any more (POLLHUP). Only
those few are then looked at. No byte is consumed, and no event of a socket, pipe or epoll set.
(A change of /proc/self/mounts is, which the kernel tells once per open file: a program that
polls that file should not call this; `docs/explanation/limits.md`.)
"""

import errno
import select
import stat
import types

from sockguard._kernel.natives import open_file, system

__all__ = ["NO_DESCRIPTOR", "read_all_sockets", "read_fd_count", "read_fd_limit", "read_hung_up", "read_table_size"]

NO_DESCRIPTOR = (errno.EMFILE, errno.ENFILE)
"""What a call fails with when no descriptor is left: to the process, or to the whole machine."""
BLOCK = 1024
"""Descriptors in one poll(), which takes no more than RLIMIT_NOFILE; the table can be larger."""

_spare: "list[list[select.poll]]" = []  # quoted: Windows has no poll, and must import this
"""Poll objects, one for each block of numbers; building them costs twice their use.

Taken by pop() and given back by append(), both atomic, so threads never share them.
"""


def read_table_size() -> int:
    """Reads how many descriptors the process's table has room for: no fd is beyond it."""
    with open_file("/proc/self/status", "rb") as file:
        for line in file:
            if line.startswith(b"FDSize:"):
                return int(line[7:])
    return 0


def read_hung_up(*, keeps_pollers: bool = True) -> dict[int, list[int]]:
    """Lists this process's sockets whose peer hung up, or that are not connected.

    Where poll() is not allowed to take enough descriptors at once, all sockets are listed.

    Args:
        keeps_pollers: Spend 100 bytes a descriptor so that the next time is twice as fast.

    Returns:
        Socket inode -> its descriptors, in ascending order.
    """
    if not isinstance(getattr(select, "poll", None), types.BuiltinFunctionType):
        return read_all_sockets()  # gevent and eventlet put their own poll, or none, in its place
    n_blocks = -(-read_table_size() // BLOCK)
    try:
        pollers = _spare.pop()
    except IndexError:
        pollers = []
    pollers += map(_new_poller, range(len(pollers), n_blocks))
    try:
        hung_up = [fd for poller in pollers for fd, events in poller.poll(0) if events != select.POLLNVAL]
    except OSError:
        return read_all_sockets()  # RLIMIT_NOFILE is below a block
    if keeps_pollers:
        _spare.append(pollers)
    return _sockets_among(hung_up)


def _new_poller(block: int) -> "select.poll":
    poller = select.poll()
    for fd in range(block * BLOCK, (block + 1) * BLOCK):
        poller.register(fd, select.POLLRDHUP)
    return poller


def read_all_sockets() -> dict[int, list[int]]:
    """Lists all sockets of this process: inode -> its descriptors, in ascending order."""
    return _sockets_among(sorted(map(int, system.listdir("/proc/self/fd"))))


def _sockets_among(fds: list[int]) -> dict[int, list[int]]:
    sockets: dict[int, list[int]] = {}
    for fd in fds:
        try:
            status = system.fstat(fd)
        except OSError:
            continue  # closed since it was listed
        if stat.S_ISSOCK(status.st_mode):
            sockets.setdefault(status.st_ino, []).append(fd)
    return sockets


def read_fd_count() -> int:
    """Counts the open descriptors of this process, cheaply: since Linux 6.2 the folder's size is their number.

    Raises:
        OSError: There is no /proc, as in a chroot.
    """
    return system.stat("/proc/self/fd").st_size or len(system.listdir("/proc/self/fd"))


def read_fd_limit() -> int | None:
    """Reads the soft RLIMIT_NOFILE of this process; None if there is none."""
    import resource  # noqa: PLC0415 - does not exist on Windows, where this file must import

    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return None if limit == resource.RLIM_INFINITY else limit
