"""Which processes are there, and who holds which socket? /proc/PID, as in proc(5).

A process can end, or be replaced by another with its pid, while it is being read. What
is gone is left out, and `read_process` refuses to mix two processes in one record.
"""

import contextlib
import errno
import os
from collections.abc import Collection, Iterable
from typing import NamedTuple

from sockguard._core.facts import Holder, ProcessFacts
from sockguard._kernel.natives import open_file, system
from sockguard.errors import InternalError, KernelUnavailable

__all__ = [
    "Holders",
    "Stat",
    "are_others_hidden",
    "find_holders",
    "list_pids",
    "parse_command",
    "parse_nofile_limit",
    "parse_socket_link",
    "parse_stat",
    "read_command",
    "read_descriptor_limits",
    "read_netns",
    "read_parents",
    "read_process",
    "read_protocol",
    "read_socket_fds",
    "read_stat",
    "refuse_thread",
]

ENDED = "ZX"
"""States of a process that holds nothing any more (zombie, dead)."""
_GONE = (errno.ENOENT, errno.ESRCH)
_MAX_COMMAND = 4096


class Stat(NamedTuple):
    """The fields of /proc/PID/stat that are of use here."""

    name: str
    state: str
    ppid: int
    started: int
    """Clock ticks since boot."""


def parse_stat(text: str) -> Stat:
    """Decodes /proc/PID/stat; the name may hold blanks and parentheses of its own.

    Raises:
        InternalError: It has another form.
    """
    try:
        name = text[text.index("(") + 1 : text.rindex(")")]
        fields = text[text.rindex(")") + 2 :].split()
        return Stat(name, fields[0], int(fields[1]), int(fields[19]))
    except (ValueError, IndexError) as error:
        msg = f"not a /proc/PID/stat line: {text[:200]!r}"
        raise InternalError(msg) from error


def parse_command(cmdline: bytes, name: str) -> str:
    """Makes one printable line of /proc/PID/cmdline; `[name]` where it is empty (kernel, zombie)."""
    words = cmdline[:_MAX_COMMAND].rstrip(b"\0").replace(b"\0", b" ").decode("utf-8", "replace")
    return _printable(words) or f"[{_printable(name)}]"


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text)


def parse_nofile_limit(text: str) -> tuple[int | None, int | None]:
    """Finds the soft and the hard limit of open files in /proc/PID/limits; None for unlimited.

    Raises:
        InternalError: The line is missing or has another form.
    """
    _, _, row = text.partition("\nMax open files ")
    try:
        soft, hard = (None if limit == "unlimited" else int(limit) for limit in row.split()[:2])
    except ValueError as error:
        msg = f"no 'Max open files' in /proc/PID/limits: {text[:200]!r}"
        raise InternalError(msg) from error
    return soft, hard


def parse_socket_link(target: str) -> int | None:
    """Finds the inode in the target of a /proc/PID/fd link, `socket:[123]`; None for other files."""
    number = target[8:-1]
    return int(number) if target[:8] == "socket:[" and target[-1:] == "]" and number.isdecimal() else None


def list_pids(proc: str = "/proc") -> list[int]:
    """Lists the processes of this PID namespace, lowest first.

    Raises:
        KernelUnavailable: There is none, so this is no real /proc.
    """
    pids = sorted(int(name) for name in system.listdir(proc) if name.isdecimal())
    if not pids:
        raise KernelUnavailable(proc, "it lists no process", "Mount /proc.")
    return pids


def are_others_hidden(proc: str = "/proc") -> bool:
    """Tells whether /proc hides other users' processes (hidepid=2): process 1 always exists."""
    return not os.path.exists(f"{proc}/1")


def refuse_thread(pid: int, proc: str = "/proc") -> None:
    """Refuses the number of a thread, under which /proc shows its whole process once more.

    Raises:
        ProcessLookupError: It is one, or there is no such process; the text names its process.
    """
    for line in _read(pid, "status", proc).splitlines():
        if line.startswith(b"Tgid:") and int(line[5:]) != pid:
            raise ProcessLookupError(errno.ESRCH, f"it is a thread of process {int(line[5:])}", str(pid))


def read_netns(pid: int | str = "self", proc: str = "/proc") -> int:
    """Finds the inode of a process's network namespace; 0 where it may not be read."""
    try:
        target = system.readlink(f"{proc}/{pid}/ns/net")
    except OSError:
        return 0
    return int(target.removeprefix("net:[").removesuffix("]"))


def read_protocol(pid: int, fd: int, proc: str = "/proc") -> str:
    """Reads which protocol a socket speaks: TCP, TCPv6, UDP, UNIX and so on.

    It works on any socket, listed in a table or not (net/socket.c, `sockfs_xattr_get`).

    Raises:
        OSError: The descriptor is closed, no socket, or may not be looked at.
    """
    return system.getxattr(f"{proc}/{pid}/fd/{fd}", "system.sockprotoname").rstrip(b"\0").decode("ascii", "replace")


def read_socket_fds(pid: int | str = "self", proc: str = "/proc") -> tuple[dict[int, list[int]], int]:
    """Lists the sockets that a process holds.

    Returns:
        Socket inode -> its descriptors in ascending order, and the number of all
        descriptors, files and pipes included.

    Raises:
        ProcessLookupError: It is gone.
        PermissionError: Its descriptors may not be seen (ptrace(2), "access mode checking").
    """
    sockets: dict[int, list[int]] = {}
    try:
        folder = system.open(f"{proc}/{pid}/fd", system.O_RDONLY | system.O_DIRECTORY)
    except FileNotFoundError as error:
        raise ProcessLookupError(errno.ESRCH, "no such process", str(pid)) from error
    try:
        fds = sorted(map(int, system.listdir(folder)))
        for fd in fds:
            inode = _read_socket_inode(folder, fd)
            if inode is not None:
                sockets.setdefault(inode, []).append(fd)
    except FileNotFoundError as error:
        raise ProcessLookupError(errno.ESRCH, "no such process", str(pid)) from error
    finally:
        system.close(folder)
    return sockets, len(fds)


def _read_socket_inode(folder: int, fd: int) -> int | None:
    try:
        return parse_socket_link(system.readlink(str(fd), dir_fd=folder))
    except OSError as error:
        if error.errno in _GONE:
            return None  # closed since it was listed
        raise


def _read(pid: int | str, name: str, proc: str) -> bytes:
    try:
        with open_file(f"{proc}/{pid}/{name}", "rb") as file:
            return file.read()
    except FileNotFoundError as error:
        raise ProcessLookupError(errno.ESRCH, "no such process", str(pid)) from error


def read_stat(pid: int | str, proc: str = "/proc") -> Stat:
    """Reads /proc/PID/stat.

    Raises:
        ProcessLookupError: There is no such process.
    """
    return parse_stat(_read(pid, "stat", proc).decode("utf-8", "replace"))


def read_command(pid: int | str, proc: str = "/proc") -> str:
    """Reads the command line of a process, in one printable line.

    Raises:
        ProcessLookupError: There is no such process.
    """
    cmdline = _read(pid, "cmdline", proc)
    return parse_command(cmdline, "" if cmdline.strip(b"\0") else read_stat(pid, proc).name)


def read_process(pid: int, proc: str = "/proc") -> ProcessFacts:
    """Reads who a process is, its descriptor budget and its sockets.

    Where its descriptors may not be seen, `fd_used` is None and `sockets` empty.

    Raises:
        ProcessLookupError: It does not exist, has ended, or was replaced while it was read.
    """
    stat = read_stat(pid, proc)
    if stat.state in ENDED:
        raise ProcessLookupError(errno.ESRCH, "it has ended and waits for its parent (a zombie)", str(pid))
    try:
        facts = _read_process(pid, stat, proc)
    except FileNotFoundError as error:
        raise ProcessLookupError(errno.ESRCH, "no such process", str(pid)) from error
    if read_stat(pid, proc).started != stat.started:
        raise ProcessLookupError(errno.ESRCH, "it was replaced by another process with its pid", str(pid))
    return facts


def _read_process(pid: int, stat: Stat, proc: str) -> ProcessFacts:
    sockets: dict[int, list[int]] = {}
    fd_used = None
    with contextlib.suppress(PermissionError):  # told by fd_used
        sockets, fd_used = read_socket_fds(pid, proc)
    return ProcessFacts(
        pid=pid,
        ppid=stat.ppid,
        uid=system.stat(f"{proc}/{pid}").st_uid,
        command=read_command(pid, proc),
        started=stat.started,
        netns=read_netns(pid, proc),
        fd_used=fd_used,
        fd_limit=read_descriptor_limits(pid, proc)[0],
        sockets={inode: tuple(fds) for inode, fds in sockets.items()},
    )


def read_descriptor_limits(pid: int, proc: str = "/proc") -> tuple[int | None, int | None]:
    """Reads the soft and the hard RLIMIT_NOFILE of a process; None for unlimited.

    Raises:
        ProcessLookupError: There is no such process, or it has just ended.
    """
    text = _read(pid, "limits", proc).decode("ascii", "replace")
    if not text:
        raise ProcessLookupError(errno.ESRCH, "it has just ended", str(pid))
    return parse_nofile_limit(text)


class Holders(NamedTuple):
    """Who holds which socket, and how many processes could not be asked."""

    by_inode: dict[int, list[Holder]]
    n_unreadable: int


def find_holders(wanted: Collection[int], pids: Iterable[int], proc: str = "/proc") -> Holders:
    """Finds every holder of the wanted socket inodes among these processes."""
    found: dict[int, list[Holder]] = {}
    n_unreadable = 0
    for pid in pids:
        try:
            sockets, _ = read_socket_fds(pid, proc)
            mine = sockets.keys() & wanted
            command = read_command(pid, proc) if mine else ""
        except PermissionError:
            n_unreadable += 1
            continue
        except ProcessLookupError:
            continue
        for inode in mine:
            found.setdefault(inode, []).extend(Holder(pid, fd, command) for fd in sockets[inode])
    return Holders(found, n_unreadable)


def read_parents(pids: Iterable[int], proc: str = "/proc") -> dict[int, int]:
    """Finds the parents, grandparents and so on of these processes: pid -> parent pid."""
    parents: dict[int, int] = {}
    for first in pids:
        pid = first
        while pid and pid not in parents:
            try:
                parents[pid] = read_stat(pid, proc).ppid
            except (ProcessLookupError, PermissionError):
                break
            pid = parents[pid]
    return parents
