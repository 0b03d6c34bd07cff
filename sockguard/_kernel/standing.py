"""Are the same sockets open as before? Asked after each test, so it must cost less than a look at each descriptor.

To fstat() 100 descriptors takes a tenth of a millisecond. But an epoll set forgets a socket of
itself when that is closed, and /proc/self/fdinfo/EPFD tells all that are in it, with number and
inode, in one read (since Linux 3.8; the inodes since 4.13). So if that text and the number of
descriptors are what they were, the sockets are the same, but for three cases that are looked at
one by one: what was no socket could be one by now; an entry outlives its number as long as a
duplicate has the socket open, here or in a child. (One more is not seen: a duplicate on its way through a
Unix socket, or in a process that is no child, while a new socket has got the number.)
"""

import stat
from collections.abc import Mapping
from typing import Any

from sockguard._kernel.natives import native, system
from sockguard._kernel.own_fds import read_fd_count
from sockguard._kernel.own_sockets import has_children

__all__ = ["Standing"]

MAX_SOCKETS = 2000
"""Beyond, the text is longer than what is saved."""
LENGTH = 1 << 18


_strays: list[Any] = []


class Standing:
    """What was open at some time; it holds two descriptors of its own, and closes them at the end."""

    def __init__(self) -> None:
        self._epoll: Any = None
        self._info = -1
        self._text = b""
        self._count = 0
        self._others: dict[int, tuple[bool, int]] = {}
        self._pid = 0

    def remember(self, sockets: Mapping[int, list[int]], others: list[int]) -> None:
        """Takes down what is open.

        Args:
            sockets: inode -> descriptors.
            others: descriptors that are no sockets; may include those that this holds by now.
        """
        held = self._held()
        self.close()
        others = [fd for fd in others if fd not in held]
        if not 0 < len(sockets) <= MAX_SOCKETS or has_children():
            return
        try:
            self._epoll = native("select", "epoll")()
            self._info = system.open(f"/proc/self/fdinfo/{self._epoll.fileno()}", system.O_RDONLY)
            for fds in sockets.values():
                self._epoll.register(fds[0], 0)
            duplicates = [fd for fds in sockets.values() if len(fds) > 1 for fd in fds]
            self._others = {fd: _identity(fd) for fd in (*others, *duplicates)}
            self._text = system.pread(self._info, LENGTH, 0)
        except (OSError, AttributeError):
            self.close()
            return
        # Not the count of now: another thread may have opened something since the list was made.
        self._count, self._pid = len(others) + sum(map(len, sockets.values())) + _own_count(), system.getpid()
        if _inodes(self._text) != sockets.keys():
            self.close()  # an old kernel, or another socket by now

    def is_same(self) -> bool:
        """Tells whether exactly the same is open; False also where that is not known."""
        if self._epoll is None or self._count != read_fd_count() or self._pid != system.getpid() or has_children():
            return False
        try:
            is_same = system.pread(self._info, LENGTH, 0) == self._text
            return is_same and all(_identity(fd) == before for fd, before in self._others.items())
        except OSError:
            return False

    def _held(self) -> set[int]:
        epoll = -1 if self._epoll is None else self._epoll.fileno()
        held = ((epoll, "anon_inode:[eventpoll]"), (self._info, "/fdinfo/"))
        return {fd for fd, name in held if _is_still(fd, name)}

    def close(self) -> None:
        """Gives its own descriptors back."""
        epoll, self._epoll = self._epoll, None
        info, self._info = self._info, -1
        if epoll is not None and not _is_still(epoll.fileno(), "anon_inode:[eventpoll]"):
            _strays.append(epoll)  # its number is another's: it must never be closed, not even by being thrown away
        elif epoll is not None:
            epoll.close()
        if _is_still(info, "/fdinfo/"):
            system.close(info)


def _own_count() -> int:
    """Counts what `read_fd_count` counts beyond a list made before: epoll set and text; the list's own before 6.2."""
    return 2 if system.stat("/proc/self/fd").st_size else 3


def _inodes(text: bytes) -> set[int]:
    """Reads the inodes in /proc/PID/fdinfo of an epoll set."""
    return {int(part.split(None, 1)[0], 16) for part in text.split(b" ino:")[1:]}


def _is_still(fd: int, name: str) -> bool:
    """Tells whether a number is still what we have opened; a program that closes all numbers takes ours, too."""
    try:
        return name in system.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return False


def _identity(fd: int) -> tuple[bool, int]:
    """Tells whether a descriptor is a socket, and which; what is none may change into another that is none."""
    status = system.fstat(fd)
    is_socket = stat.S_ISSOCK(status.st_mode)
    return is_socket, status.st_ino if is_socket else 0
