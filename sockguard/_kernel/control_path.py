"""Where does the control socket of a process lie, and who is at the other end of it?

It lies in a directory that only its user can enter: `$XDG_RUNTIME_DIR/sockguard`, else
`/tmp/sockguard-UID`. Its name has the pid and the start time of the process, so that
one that comes later with the same pid has another one. The directory in `/tmp` could have been made by anybody
beforehand, as a link even; so it is used only if it is a directory, ours and closed to others.
"""

import _socket
import contextlib
import errno
import os
import re
import socket
import stat
import struct
from typing import NamedTuple

from sockguard._kernel.proc_pid import read_stat

__all__ = ["Peer", "is_dead", "parse_peer", "private_folder", "read_peer", "socket_name", "sweep"]

NAME = re.compile(r"(?P<pid>[0-9]{1,10})-(?P<started>[0-9]{1,20})\.sock", re.ASCII)
FOLDER = "sockguard"
PRIVATE = 0o700
MAX_SWEPT = 1000
"""Names that are looked at by one sweep."""

_PEER = struct.Struct("iII")


class Peer(NamedTuple):
    """The process at the other end of a Unix socket, as it was when it connected or listened."""

    pid: int
    uid: int


def parse_peer(raw: bytes) -> Peer:
    """Decodes `struct ucred` (unix(7), SO_PEERCRED)."""
    pid, uid, _ = _PEER.unpack(raw)
    return Peer(pid, uid)


def read_peer(sock: _socket.socket) -> Peer:
    """Asks the kernel who is at the other end of a connected Unix socket."""
    return parse_peer(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))


def socket_name(pid: int, started: int) -> str:
    """Makes the file name of the control socket of a process."""
    return f"{pid}-{started}.sock"


def private_folder() -> str:
    """Finds the directory for our control socket, and makes it if need be.

    Raises:
        OSError: There is none that only we can enter.
    """
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if os.path.isabs(runtime) and _is_private(runtime):
        return _make_private(os.path.join(runtime, FOLDER))
    temporary = os.environ.get("TMPDIR", "")
    return _make_private(os.path.join(temporary if os.path.isabs(temporary) else "/tmp", f"{FOLDER}-{os.geteuid()}"))  # noqa: S108 - the directory is made ours


def _is_private(path: str) -> bool:
    try:
        facts = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISDIR(facts.st_mode) and facts.st_uid == os.geteuid() and not facts.st_mode & 0o077


def _make_private(path: str) -> str:
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, PRIVATE)
    if not _is_private(path):
        raise PermissionError(errno.EACCES, "not a directory that only this user can enter", path)
    return path


def sweep(folder: str) -> None:
    """Removes the control sockets that dead processes have left behind.

    A process that is in no /proc of ours may live in another PID namespace and share the
    directory with us. So a socket is removed only if nobody listens at it, either.
    """
    for name in os.listdir(folder)[:MAX_SWEPT]:
        path = os.path.join(folder, name)
        found = NAME.fullmatch(name)
        if found and is_dead(int(found["pid"]), int(found["started"])) and _is_deserted(path):
            with contextlib.suppress(OSError):  # somebody else was faster
                os.unlink(path)


def is_dead(pid: int, started: int) -> bool:
    """Tells whether a process has ended, though another may have its pid by now."""
    try:
        return read_stat(pid).started != started
    except ProcessLookupError:
        return True
    except OSError:
        return False


def _is_deserted(path: str) -> bool:
    sock = _socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        sock.connect(path)
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    finally:
        sock.close()
    return False
