"""Sockets borrowed from another process: the owner's own, for a moment, and never the wrong process's."""

import contextlib
import errno
import os
import socket
import subprocess
import sys
import threading

import pytest

from children import Child, start_child
from forks import fork, succeeded
from loopback import connect, inode_of, listen, vanished_peer
from refusing import PIDFD_GETFD, PIDFD_OPEN, needs_seccomp
from sockguard._kernel import pidfd
from sockguard._kernel.natives import system
from sockguard._kernel.one_socket import read_cookie
from sockguard._kernel.pidfd import borrow_socket
from sockguard._kernel.proc_pid import read_stat
from sockguard.errors import KernelUnavailable
from waiting import eventually


def connect_in(child: Child, listener: socket.socket) -> tuple[int, socket.socket]:
    """Lets the child connect; returns its descriptor and our end."""
    child.do(f"sock = socket.create_connection({listener.getsockname()[:2]!r})")
    return int(child.ask("sock.fileno()")), listener.accept()[0]


def test_borrowed_socket_is_the_owners_own() -> None:
    """Cookie and inode are the same, and a byte sent by the borrower comes out at the owner's peer."""
    with listen() as listener, start_child() as child:
        fd, peer = connect_in(child, listener)
        cookie = int.from_bytes(
            bytes(map(int, child.ask("*sock.getsockopt(socket.SOL_SOCKET, 57, 8)").split())), sys.byteorder
        )
        with peer, borrow_socket(child.pid, fd) as borrowed:
            assert read_cookie(borrowed) == cookie
            assert str(inode_of(borrowed)) == child.ask("os.fstat(sock.fileno()).st_ino")
            borrowed.sendall(b"x")
            assert peer.recv(1) == b"x"


def test_owner_keeps_its_descriptor_when_ours_is_closed() -> None:
    """Closing gives back what was lent: the connection goes on, and our descriptor is gone."""
    with listen() as listener, start_child() as child:
        fd, peer = connect_in(child, listener)
        with borrow_socket(child.pid, fd) as borrowed:
            ours = borrowed.fileno()
        assert borrowed.fileno() == -1
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(ours)
        with peer:
            child.do("sock.sendall(b'still here')")
            assert peer.recv(99) == b"still here"


def test_descriptor_is_given_back_after_an_error() -> None:
    """An error in the borrower's code does not leak the loan."""
    with connect() as connection:
        with pytest.raises(BlockingIOError), borrow_socket(os.getpid(), connection.server.fileno()) as borrowed:
            borrowed.recv(1, socket.MSG_DONTWAIT)
        assert borrowed.fileno() == -1


def test_own_socket_is_duplicated() -> None:
    """Of this very process the descriptor is another number for the same socket, which no child inherits."""
    with vanished_peer() as connection, borrow_socket(os.getpid(), connection.server.fileno()) as borrowed:
        assert borrowed.fileno() != connection.server.fileno()
        assert read_cookie(borrowed) == read_cookie(connection.server)
        assert not os.get_inheritable(borrowed.fileno())


@pytest.mark.parametrize("default", [None, 0.0, 5.0])
def test_owner_stays_blocking(default: float | None) -> None:
    """O_NONBLOCK is shared with the owner, so borrowing must not touch it, whatever the program's default timeout."""
    with connect() as connection:
        fd = connection.server.fileno()
        socket.setdefaulttimeout(default)
        try:
            with borrow_socket(os.getpid(), fd):
                assert os.get_blocking(fd)
        finally:
            socket.setdefaulttimeout(None)
        assert os.get_blocking(fd)


def test_closed_descriptor_is_ebadf() -> None:
    """In another process and in this one."""
    with start_child() as child:
        for pid in (child.pid, os.getpid()):
            with pytest.raises(OSError, match="Bad file descriptor") as caught, borrow_socket(pid, 1 << 19):
                pass
            assert caught.value.errno == errno.EBADF


@pytest.mark.usefixtures("no_garbage")
def test_file_is_enotsock_and_its_duplicate_is_closed() -> None:
    """A number that is a file by now is refused, and nothing stays open of the attempt."""
    with start_child() as child, open(os.devnull) as ours:
        theirs = int(child.ask("os.open(os.devnull, os.O_RDONLY)"))
        before = os.listdir("/proc/self/fd")
        for pid, fd in ((child.pid, theirs), (os.getpid(), ours.fileno())):
            with pytest.raises(OSError, match="non-socket") as caught, borrow_socket(pid, fd):
                pass
            assert caught.value.errno == errno.ENOTSOCK
        assert os.listdir("/proc/self/fd") == before


def test_process_that_is_gone() -> None:
    """Ended and waited for: its pid is nobody's."""
    with start_child() as child:
        pid = child.pid
    with pytest.raises(ProcessLookupError), borrow_socket(pid, 0):
        pass


def test_zombie_has_nothing_to_lend() -> None:
    """Ended and not yet waited for: its pid still exists."""
    pid = os.posix_spawn("/bin/true", ["true"], {})
    try:
        eventually(lambda: read_stat(pid).state == "Z")
        with pytest.raises(ProcessLookupError), borrow_socket(pid, 0):
            pass
    finally:
        os.waitpid(pid, 0)


@pytest.mark.usefixtures("no_garbage")
def test_replaced_process_is_refused() -> None:
    """With the start time of the process that was meant, another one with its pid lends nothing."""
    with listen() as listener, start_child() as child:
        fd, peer = connect_in(child, listener)
        started = read_stat(child.pid).started
        with peer, borrow_socket(child.pid, fd, started=started) as borrowed:
            assert borrowed.getpeername() == listener.getsockname()
        before = os.listdir("/proc/self/fd")
        with pytest.raises(ProcessLookupError, match="replaced"), borrow_socket(child.pid, fd, started=started - 1):
            pass
        assert os.listdir("/proc/self/fd") == before


BORROW = """
import ctypes, errno, os, socket, sys
from sockguard._kernel.pidfd import borrow_socket
from sockguard.errors import KernelUnavailable
{before}
try:
    with borrow_socket({pid}, {fd}):
        print("borrowed")
except (OSError, KernelUnavailable) as error:
    print(type(error).__name__, getattr(error, "errno", ""))
"""


def borrow_elsewhere(child: Child, before: str) -> str:
    """Tries to borrow a socket of the child from one more process, which first does something to itself."""
    fd = int(child.ask("(sock := socket.socket()).fileno()"))
    script = BORROW.format(before=before, pid=child.pid, fd=fd)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([os.path.dirname(__file__) + "/..", *sys.path])}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment)
    return done.stdout.strip()


@pytest.mark.slow
def test_user_without_the_right_is_refused() -> None:
    """Another user may not borrow from a process: PermissionError."""
    if os.getuid() != 0:
        pytest.skip("only root can become another user")
    with start_child() as child:
        assert borrow_elsewhere(child, "") == "borrowed"
        assert (
            borrow_elsewhere(child, "os.setgroups([]); os.setgid(65534); os.setuid(65534)")
            == f"PermissionError {errno.EPERM}"
        )


@pytest.mark.slow
@needs_seccomp
@pytest.mark.parametrize(
    ("call", "number", "outcome"),
    [
        pytest.param(PIDFD_GETFD, errno.ENOSYS, "KernelUnavailable", id="Linux 5.3 to 5.5"),
        pytest.param(PIDFD_GETFD, errno.EPERM, "PermissionError 1", id="a sandbox"),
        pytest.param(
            PIDFD_OPEN,
            errno.ENOSYS,
            "KernelUnavailable",
            id="before Linux 5.3",
        ),
    ],
)
def test_kernel_that_cannot_lend(call: int, number: int, outcome: str) -> None:
    """A call that the kernel does not know is KernelUnavailable, as documented; a refusal is PermissionError."""
    with start_child() as child:
        assert borrow_elsewhere(child, f"from refusing import refuse; refuse({call}, {number})") == outcome


def test_kernel_that_does_not_know_the_calls_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither call existed before Linux 5.3; the first came with it, the second with 5.6."""
    with start_child() as child:
        monkeypatch.setattr(pidfd, "SYS_PIDFD_GETFD", 0x7FFF)  # a call that no kernel knows
        with pytest.raises(KernelUnavailable, match=r"Linux 5\.6"), borrow_socket(child.pid, 0):
            pass

        def unknown(_: int) -> int:
            raise OSError(errno.ENOSYS, "Function not implemented")

        monkeypatch.setattr(system, "pidfd_open", unknown)
        with pytest.raises(KernelUnavailable, match=r"Linux 5\.6"), borrow_socket(child.pid, 0):
            pass


def test_system_without_pidfd_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Python knows no pidfd_open there is nothing to borrow with."""
    monkeypatch.delattr(system, "pidfd_open")
    with pytest.raises(KernelUnavailable, match="pidfd_getfd"), borrow_socket(1, 0):
        pass


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # fork with threads is the point
def test_fork_meanwhile_does_not_inherit_the_duplicate() -> None:
    """A child that is forked while a socket is lent would keep the connection from ending: forks wait."""
    stop = threading.Event()

    def lend_all_the_time(fd: int) -> None:
        while not stop.is_set():
            with borrow_socket(os.getpid(), fd) as borrowed:
                read_cookie(borrowed)

    with vanished_peer() as connection:
        inode = inode_of(connection.server)
        lender = threading.Thread(target=lend_all_the_time, args=(connection.server.fileno(),))
        lender.start()
        try:
            copies = [count_in_child(inode) for _ in range(100)]
        finally:
            stop.set()
            lender.join()
    assert copies == [1] * 100


def count_in_child(inode: int) -> int:
    """Forks a child and lets it count its descriptors of a socket."""
    child = os.fork()
    if child == 0:
        n_copies = 0
        for fd in range(256):
            with contextlib.suppress(OSError):
                n_copies += os.fstat(fd).st_ino == inode
        os._exit(n_copies)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_fork_does_not_wait_for_whom_it_holds_up_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """A finalizer of the program can run while a socket is lent, and wait for a lock that the forking thread holds."""
    monkeypatch.setattr(pidfd, "MAX_WAIT", 0.1)
    lock, is_lent, is_through = threading.Lock(), threading.Event(), threading.Event()

    def lend() -> None:
        with connect() as connection, borrow_socket(os.getpid(), connection.server.fileno()):
            is_lent.set()
            with lock:
                is_through.set()

    lender = threading.Thread(target=lend)
    with lock:
        lender.start()
        assert is_lent.wait(60)
        child = fork(lambda: pidfd.no_fork.acquire(timeout=20))  # the child can lend, too
        assert not is_through.is_set()
    lender.join()
    assert is_through.is_set()
    assert succeeded(child)


def test_a_fork_that_waited_in_vain_leaves_the_lock_to_the_one_that_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads fork at once, and the first one is held up by somebody else's hook: each undoes what it has done."""
    monkeypatch.setattr(pidfd, "MAX_WAIT", 0.001)
    has_begun, may_end = threading.Event(), threading.Event()

    def fork_slowly() -> None:
        pidfd._before_fork()  # noqa: SLF001 - as os.fork() does
        has_begun.set()
        may_end.wait(60)
        pidfd._after_fork_in_parent()  # noqa: SLF001

    first = threading.Thread(target=fork_slowly)
    first.start()
    assert has_begun.wait(60)
    pidfd._before_fork()  # noqa: SLF001
    may_end.set()
    first.join()
    pidfd._after_fork_in_parent()  # noqa: SLF001
    assert pidfd.no_fork.acquire(timeout=20)
    pidfd.no_fork.release()
