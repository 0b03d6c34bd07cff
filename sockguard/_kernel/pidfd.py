"""How to hold another process's socket for a moment: pidfd_open(2) and pidfd_getfd(2).

A borrowed socket is the owner's own, seen through a descriptor of ours: options and
shutdown() act on the connection, while close() here only gives our descriptor back.
The right to borrow is the right to ptrace(2) the process.

What must not happen: O_NONBLOCK belongs to the open file, which owner and borrower share.
`socket.socket(fileno=...)` sets it wherever the program has called setdefaulttimeout(),
and the owner's blocking recv() would fail with EAGAIN from then on. Told at its creation
that the socket is non-blocking, Python takes that for a fact and touches no flag
(Modules/socketmodule.c, `init_sockobject`). It is `_socket.socket`, as gevent's class in
the place of `socket.socket` sets the flag whatever it is told.

And a fork in that moment must not happen: the child would inherit our duplicate, and its
copy would keep the connection from ending when the owner closes it. That is the very
leak that we look for, so forks wait until the duplicate is closed.
"""

import _socket
import errno
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from sockguard._kernel.natives import native, system
from sockguard._kernel.proc_pid import read_stat
from sockguard.errors import KernelUnavailable

__all__ = ["borrow_socket", "no_fork"]

SYS_PIDFD_GETFD = 438
"""The same on every architecture (Linux 5.6, include/uapi/asm-generic/unistd.h)."""

no_fork = native("_thread", "RLock")()
"""Held while a duplicate of ours is open; a fork takes it first."""

MAX_WAIT = 1.0
"""Seconds that a fork waits for a duplicate to be given back. It takes microseconds, unless a finalizer of the
program runs in that moment on our thread, and waits for a lock that the forking thread holds."""
_holders: list[int] = []
"""The threads that fork and have got it, as often as they have: of two at once, one may have waited in vain."""
_this_thread = native("_thread", "get_ident")


def _before_fork() -> None:
    if no_fork.acquire(timeout=MAX_WAIT):
        _holders.append(_this_thread())


def _after_fork_in_parent() -> None:
    if _this_thread() in _holders:
        _holders.remove(_this_thread())
        no_fork.release()


def _after_fork_in_child() -> None:
    _holders[:] = [thread for thread in _holders if thread == _this_thread()]
    if _holders:
        _after_fork_in_parent()
    else:
        no_fork._at_fork_reinit()  # noqa: SLF001 - what threading does with its own; who held it is not in the child


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)


@contextmanager
def borrow_socket(pid: int, fd: int, *, started: int | None = None) -> Iterator[_socket.socket]:
    """Lends a socket of a running process, as a context manager.

    Whoever acts on it must first check by its cookie that it is the one that was meant:
    the number may have been given to another connection since it was read.

    Args:
        pid: The owner; for this very process the descriptor is simply duplicated.
        fd: The owner's number for it.
        started: Start time of the process, so that another one with its pid is refused.

    Raises:
        ProcessLookupError: The process is gone, or has been replaced.
        PermissionError: Not allowed to ptrace it.
        OSError: EBADF, the descriptor is closed; ENOTSOCK, it is no socket.
        KernelUnavailable: Not Linux, or older than 5.6, or the sandbox refuses.
    """
    with no_fork:
        borrowed = system.dup(fd) if pid == system.getpid() else _take_duplicate(pid, fd, started)
        try:
            sock = _socket.socket(-1, socket.SOCK_STREAM | socket.SOCK_NONBLOCK, -1, fileno=borrowed)
        except OSError:
            system.close(borrowed)
            raise
        try:
            yield sock
        finally:
            sock.close()


def _take_duplicate(pid: int, fd: int, started: int | None) -> int:
    if not hasattr(system, "pidfd_open"):
        raise KernelUnavailable("pidfd_getfd", f"{sys.platform} has none", "It needs Linux 5.6 or newer.")
    try:
        pidfd = system.pidfd_open(pid)
    except OSError as error:
        raise _too_old() if error.errno == errno.ENOSYS else error from None
    try:
        if started is not None and read_stat(pid).started != started:
            raise ProcessLookupError(errno.ESRCH, "the process was replaced by another with its pid", str(pid))
        return _pidfd_getfd(pidfd, fd)
    finally:
        system.close(pidfd)


def _too_old() -> KernelUnavailable:
    return KernelUnavailable("pidfd_getfd", "the kernel does not know it", "It needs Linux 5.6 or newer.")


def _pidfd_getfd(pidfd: int, fd: int) -> int:
    import ctypes  # noqa: PLC0415 - 8 ms that a plain import of sockguard should not pay

    syscall = ctypes.CDLL(None, use_errno=True).syscall
    syscall.restype = ctypes.c_long
    result = syscall(*map(ctypes.c_long, (SYS_PIDFD_GETFD, pidfd, fd, 0)))
    if result >= 0:
        return int(result)
    number = ctypes.get_errno()
    if number == errno.ENOSYS:
        raise _too_old()
    raise OSError(number, system.strerror(number))
