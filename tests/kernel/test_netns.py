"""Another network namespace is asked from a thread of its own; nobody else ever leaves home."""

import os
import shutil
import socket
import sys
import threading

import pytest

from children import Child, start_child
from sockguard._core.facts import Address, TcpState
from sockguard._kernel import netns
from sockguard._kernel.inet_diag import read_sockets
from sockguard._kernel.netns import open_diag_in
from sockguard._kernel.proc_pid import read_netns

needs_root = pytest.mark.skipif(
    os.getuid() != 0 or not shutil.which("unshare"), reason="a network namespace of its own needs root and unshare(1)"
)


def listen_in(child: Child) -> tuple[Address, int]:
    """Listens in the child on an address that does not exist here; returns it with the inode."""
    child.do("listener = socket.socket(); listener.bind(('0.0.0.0', 0)); listener.listen(5)")
    host, port = child.ask("*listener.getsockname()").split()
    return Address(host, int(port)), int(child.ask("os.fstat(listener.fileno()).st_ino"))


@needs_root
@pytest.mark.slow
def test_sockets_of_the_other_namespace_are_listed_and_none_of_ours() -> None:
    """The netlink socket stays in the namespace that it was opened in, also when it is used from here."""
    home = read_netns()
    with start_child(["unshare", "--net"]) as child, socket.create_server(("127.0.0.1", 0)) as ours:
        assert read_netns(child.pid) not in (home, 0)
        address, inode = listen_in(child)
        with open_diag_in(child.pid) as diag:
            rows = read_sockets(diag, [TcpState.LISTEN], netns=7)
        assert [(row.local, row.inode, row.netns) for row in rows] == [(address, inode, 7)]
        assert os.fstat(ours.fileno()).st_ino not in {row.inode for row in rows}
        assert read_netns() == home == read_netns(f"self/task/{threading.get_native_id()}")


@needs_root
@pytest.mark.slow
def test_many_threads_may_ask_at_once() -> None:
    """Each has a thread of its own for it, and all of them have ended afterwards."""
    before = {*threading.enumerate()}
    with start_child(["unshare", "--net"]) as child:
        address, _ = listen_in(child)
        seen: list[list[Address]] = []

        def ask() -> None:
            with open_diag_in(child.pid) as diag:
                seen.append([row.local for row in read_sockets(diag, [TcpState.LISTEN])])

        askers = [threading.Thread(target=ask) for _ in range(8)]
        for asker in askers:
            asker.start()
        for asker in askers:
            asker.join()
    assert seen == [[address]] * 8
    assert not {*threading.enumerate()} - before


@needs_root
def test_own_namespace_can_be_entered_too() -> None:
    """It is not special: the sockets of this process are listed."""
    with socket.create_server(("127.0.0.1", 0)) as ours, open_diag_in(os.getpid()) as diag:
        inodes = {row.inode for row in read_sockets(diag, [TcpState.LISTEN])}
        assert os.fstat(ours.fileno()).st_ino in inodes


def test_kernel_that_refuses_to_enter_is_an_error_in_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    """setns() refuses a namespace of another kind than it was told (or, without rights, any): an OSError."""
    clone_newuts = 0x04000000
    monkeypatch.setattr(netns, "CLONE_NEWNET", clone_newuts)
    with pytest.raises(OSError, match=r"Invalid argument|not permitted"):
        open_diag_in(os.getpid())


def test_process_that_is_gone_is_an_error_in_the_caller() -> None:
    """What goes wrong in the thread is raised here, and nothing stays behind."""
    with start_child() as child:
        pid = child.pid
    before = {*threading.enumerate()}
    with pytest.raises(FileNotFoundError):
        open_diag_in(pid)
    assert not {*threading.enumerate()} - before


@pytest.mark.slow
def test_namespace_may_not_be_entered_without_the_right() -> None:
    """setns() without CAP_SYS_ADMIN is refused with EPERM."""
    if os.getuid() != 0:
        with pytest.raises(PermissionError):
            open_diag_in(os.getpid())
        return
    with start_child() as child:
        child.do(f"sys.path[:] = {sys.path!r}")
        child.do("from sockguard._kernel.netns import open_diag_in")
        child.do("import ctypes.util; os.setgroups([]); os.setgid(65534); os.setuid(65534)")
        child.do("outcome = []")
        child.do("exec('try: open_diag_in(os.getpid())\\nexcept Exception as e: outcome.append(type(e).__name__)')")
        assert child.ask("outcome") == "['PermissionError']"
