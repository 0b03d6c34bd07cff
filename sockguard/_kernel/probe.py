"""Which doors to the kernel are open here? Each is tried on something harmless of our own."""

import errno
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sockguard._core.checkup import Door
from sockguard._core.facts import TcpState
from sockguard._kernel.inet_diag import destroy_socket, open_diag, read_sockets
from sockguard._kernel.netns import open_diag_in
from sockguard._kernel.pidfd import borrow_socket
from sockguard._kernel.proc_net import read_net_tcp
from sockguard._kernel.proc_pid import list_pids, read_socket_fds
from sockguard.errors import SockguardError

__all__ = ["probe_doors"]


def probe_doors() -> list[Door]:
    """Tries every door that sockguard uses, and tells which are closed and why.

    It touches nothing of anybody else: what has to be ended to find out is a connection
    that it made itself on loopback.
    """
    return [
        _try(
            "sock_diag netlink",
            _list_by_netlink,
            "all TCP sockets with their ages",
            "Allow AF_NETLINK in the sandbox's seccomp profile.",
        ),
        _try("/proc/net/tcp", read_net_tcp, "the same without ages, where netlink is closed", "Mount /proc."),
        _try(
            "/proc/PID/fd of others",
            _read_all_fds,
            "naming the owners of all sockets",
            "Run as root or with CAP_SYS_PTRACE.",
        ),
        _try(
            "pidfd_getfd",
            _borrow_from_child,
            "finding dead descriptors, and for reap",
            "Linux 5.6 or newer, and ptrace allowed (kernel.yama.ptrace_scope=0, or root).",
        ),
        _try(
            "SOCK_DESTROY", _destroy_own, "reap --destroy", "CAP_NET_ADMIN, and a kernel with CONFIG_INET_DIAG_DESTROY."
        ),
        _try(
            "setns",
            lambda: open_diag_in(os.getpid()).close(),
            "ages in containers",
            "Run as root or with CAP_SYS_ADMIN.",
        ),
    ]


def _try(name: str, attempt: Callable[[], object], serves: str, remedy: str) -> Door:
    try:
        attempt()
    except OSError as error:
        return Door(name, False, serves, error.strerror or str(error), remedy)
    except SockguardError as error:
        return Door(name, False, serves, str(error), remedy)
    return Door(name, True, serves, "", "")


def _list_by_netlink() -> None:
    with open_diag() as diag:
        read_sockets(diag, [TcpState.LISTEN])


def _read_all_fds() -> None:
    refused = []
    pids = list_pids()
    for pid in pids:
        try:
            read_socket_fds(pid)
        except ProcessLookupError:
            continue
        except PermissionError:
            refused.append(pid)
    if refused:
        raise PermissionError(
            errno.EACCES, f"refused for {len(refused)} of {len(pids)} processes, such as {refused[0]}"
        )


@contextmanager
def _own_connection() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as client:
        yield client


def _borrow_from_child() -> None:
    wait_for_end_of_input = [sys.executable, "-I", "-S", "-c", "import sys; sys.stdin.read()"]
    with (
        _own_connection() as client,
        subprocess.Popen(wait_for_end_of_input, stdin=subprocess.PIPE, pass_fds=[client.fileno()]) as child,
        borrow_socket(child.pid, client.fileno()),
    ):
        pass


def _destroy_own() -> None:
    with _own_connection() as client, open_diag() as diag:
        inode = os.fstat(client.fileno()).st_ino  # a port alone may be shared with other connections
        for facts in read_sockets(diag, [TcpState.ESTABLISHED]):
            if facts.inode == inode:
                destroy_socket(diag, facts)
                return
    raise OSError(errno.ENOENT, "its own test connection was not listed")
