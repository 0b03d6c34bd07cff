"""What is this socket of ours, of whatever family? And which of our children have a copy of one?"""

import _socket
import socket
import stat
from collections.abc import Collection, Iterator

from sockguard._core.facts import Address, Holder, TcpState
from sockguard._core.leftovers import Sketch
from sockguard._kernel.natives import open_file, system
from sockguard._kernel.one_socket import fd_of, read_facts
from sockguard._kernel.peer_name import read_peer_name
from sockguard._kernel.proc_pid import find_holders
from sockguard._kernel.tcp_info import read_tcp_info

__all__ = [
    "NO_INODE",
    "fd_of",
    "find_holders_among_children",
    "has_children",
    "is_alone",
    "read_descriptors",
    "read_inode",
    "sketch_descriptor",
    "sketch_socket",
]

_INTERNET = {socket.AF_INET, socket.AF_INET6}
_UNIX = getattr(socket, "AF_UNIX", None)
_UNCONNECTED = "UNCONNECTED"
_STATES = {state.value: state.name for state in TcpState}
_FORMAT = 0o170000
"""The bits of `st_mode` that tell a socket from a file (inode(7)); `stat.S_ISSOCK` takes as long as the system call."""
NO_INODE = -1


def read_inode(fd: int) -> int:
    """Reads the inode of a descriptor, for a socket the one thing that no other has; -1 if it is closed."""
    try:
        return system.fstat(fd).st_ino if fd >= 0 else NO_INODE
    except OSError:
        return NO_INODE  # closed by its number


def sketch_descriptor(fd: int, inode: int) -> Sketch | None:
    """Describes the socket behind a descriptor; None if it is another one by now.

    Asked through a duplicate, so that nothing happens to the descriptor itself.

    Args:
        fd: a number of this process.
        inode: that of the socket.
    """
    try:
        duplicate = system.dup(fd)
    except OSError:
        return None
    try:
        status = system.fstat(duplicate)
        is_it = stat.S_ISSOCK(status.st_mode) and status.st_ino == inode
        sock = _socket.socket(fileno=duplicate) if is_it else None
    except OSError:
        sock = None
    if sock is None:
        system.close(duplicate)
        return None
    try:
        return sketch_socket(sock)
    finally:
        sock.close()


def sketch_socket(sock: _socket.socket) -> Sketch | None:
    """Describes an open socket; without a protocol if it is of a family that is not counted, such as netlink."""
    if sock.family not in _INTERNET and sock.family != _UNIX:
        return Sketch("", "", "", "")
    try:
        return Sketch(_protocol(sock), _state(sock), _local(sock), _remote(sock))
    except OSError:
        return None  # closed meanwhile, by its number


def _protocol(sock: _socket.socket) -> str:
    if sock.family == _UNIX:
        return "Unix"
    names = {socket.SOCK_STREAM: "TCP", socket.SOCK_DGRAM: "UDP"}
    return names.get(socket.SocketKind(sock.type), "raw")


def _state(sock: _socket.socket) -> str:
    if sock.family in _INTERNET and sock.type == socket.SOCK_STREAM:
        return _tcp_state(sock)
    if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return "LISTEN"
    return "ESTABLISHED" if _has_peer(sock) else _UNCONNECTED


def _tcp_state(sock: _socket.socket) -> str:
    try:
        state = read_tcp_info(sock).state
    except OSError:
        return _UNCONNECTED  # MPTCP, SCTP, SMC: streams, but not of TCP
    if state == TcpState.CLOSE and read_facts(sock) is None:
        return _UNCONNECTED
    return _STATES.get(state) or str(state)


def _has_peer(sock: _socket.socket) -> bool:
    try:
        sock.getpeername()
    except OSError:
        return False
    return True


def _local(sock: _socket.socket) -> str:
    return _text(sock.getsockname())


def _remote(sock: _socket.socket) -> str:
    try:
        return _text(read_peer_name(sock))
    except OSError:
        return ""


def _text(name: object) -> str:
    """Writes an address as the reports do; an abstract name of a Unix socket begins with @, as in `ss`."""
    if isinstance(name, bytes):
        return name.replace(b"\0", b"@").decode(errors="backslashreplace")
    if isinstance(name, tuple):
        if name[1] == 0:
            return ""  # not bound
        return str(Address(str(name[0]), int(name[1])).unmapped)
    return str(name)


def is_alone() -> bool:
    """Tells whether this process has a single thread and no child: then nobody closes a socket while we wait."""
    return system.stat("/proc/self/task").st_nlink <= 3 and not has_children()  # noqa: PLR2004 - ., .. and the thread


def read_descriptors() -> tuple[dict[int, list[int]], list[int]]:
    """Lists the descriptors of this process: sockets, as socket inode -> descriptors, and all others."""
    names = system.listdir("/proc/self/fd")
    fstat = system.fstat
    sockets: dict[int, list[int]] = {}
    others: list[int] = []
    for name in names:
        fd = int(name)
        try:
            status = fstat(fd)
        except OSError:
            continue  # the descriptor of the listing itself, or closed since
        if status.st_mode & _FORMAT == stat.S_IFSOCK:
            sockets.setdefault(status.st_ino, []).append(fd)
        else:
            others.append(fd)
    return sockets, others


def has_children() -> bool:
    """Tells whether this process has any child, in a microsecond; takes no child's exit status away."""
    try:
        system.waitid(system.P_ALL, 0, system.WEXITED | system.WNOHANG | system.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def find_holders_among_children(inodes: Collection[int]) -> dict[int, list[Holder]]:
    """Finds which living descendants of this process hold one of these sockets: inode -> holders."""
    if not inodes or not has_children():
        return {}
    return find_holders(inodes, _descendants("self")).by_inode


def _descendants(pid: int | str) -> Iterator[int]:
    for child in _children(pid):
        yield child
        yield from _descendants(child)


def _children(pid: int | str) -> list[int]:
    """Lists the children of a process (CONFIG_PROC_CHILDREN); none where the kernel was built without."""
    try:
        threads = system.listdir(f"/proc/{pid}/task")
    except OSError:
        return []
    found: list[int] = []
    for thread in threads:
        try:
            with open_file(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                found += map(int, file.read().split())
        except OSError:
            continue  # it has ended
    return found
