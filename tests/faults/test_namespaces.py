"""Processes in other network namespaces, as in containers: found with rights, and never passed over in silence."""

import contextlib
import os
import shutil
import socket
from collections.abc import Iterator

import pytest

from children import Child, start_child
from commands import AS_NOBODY, needs_root, only_leak, refusing, report, run
from netstat import CLOSE_WAIT, wait_for
from servers import teach
from waiting import eventually

pytestmark = [
    pytest.mark.slow,
    needs_root,
    pytest.mark.skipif(not shutil.which("unshare"), reason="no unshare here: other namespaces were not tested"),
]

LOOPBACK_UP = """
import array, fcntl, struct
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
    name, flags = struct.unpack("16sH22x", fcntl.ioctl(s, SIOCGIFFLAGS, struct.pack("16sH22x", b"lo", 0)))
    fcntl.ioctl(s, SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", flags | IFF_UP))
"""
LEAK = """
listener = socket.create_server(("127.0.0.1", {port}))
port = listener.getsockname()[1]
client = socket.create_connection(("127.0.0.1", port))
server, _ = listener.accept()
client.close()
"""
BECOME_NOBODY = """
import ctypes
os.setgroups([])
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
ctypes.CDLL(None).prctl(4, 1)
"""


@contextlib.contextmanager
def elsewhere() -> Iterator[Child]:
    """Starts a child in a network namespace of its own, which ends with it."""
    with start_child(["unshare", "--net"]) as child:
        eventually(lambda: os.readlink(f"/proc/{child.pid}/ns/net") != os.readlink("/proc/self/ns/net"))
        teach(child, LOOPBACK_UP)
        yield child


def leak_in(child: Child, port: int = 0) -> int:
    teach(child, LEAK.format(port=port))
    port = int(child.ask("port"))
    wait_for(port, pid=child.pid, state=CLOSE_WAIT, inode=True)
    return port


def netns_of(pid: int | str) -> int:
    return os.stat(f"/proc/{pid}/ns/net").st_ino


def test_finds_a_leak_in_another_namespace():
    """The report on a process enters its namespace: cause, age and namespace are told as at home."""
    with elsewhere() as child:
        port = leak_in(child)
        leak = only_leak(child.pid)
        assert leak["netns"] == netns_of(child.pid) != netns_of("self")
    found = (leak["cause"], leak["side"], leak["local"], leak["age_is"])
    assert found == ("eof_unread", "server", f"127.0.0.1:{port}", "exact")


def test_all_includes_other_namespaces():
    """`report --all` looks into every namespace that a process lives in."""
    with elsewhere() as child:
        leak_in(child)
        assert [leak["pid"] for leak in report()["leaks"] if leak["pid"] == child.pid] == [child.pid]


def test_same_address_in_two_namespaces_is_two_things():
    """A listener at home with the same address and port is not blamed for a queue elsewhere."""
    with elsewhere() as child, socket.create_server(("127.0.0.1", 0)) as here:
        port = here.getsockname()[1]
        child.do(f"listener = socket.create_server(('127.0.0.1', {port}))")
        child.do("socket.create_connection(listener.getsockname()).close()")
        wait_for(port, pid=child.pid, state=CLOSE_WAIT)
        leak = only_leak(child.pid)
        assert (leak["cause"], leak["pid"], leak["fd"]) == ("not_accepted", child.pid, None)
        assert report(os.getpid())["leaks"] == []


def test_process_that_came_from_elsewhere_keeps_its_old_connections():
    """A connection made before the process changed its namespace is in no table of the new one, and is found."""
    with start_child() as child:
        child.do("from ctypes import CDLL")
        port = leak_in(child)
        assert child.ask("CDLL(None).unshare(0x40000000)") == "0"
        leak = only_leak(child.pid)
        fd = int(child.ask("server.fileno()"))
    assert (leak["fd"], leak["state"], leak["local"]) == (fd, "CLOSE_WAIT", f"127.0.0.1:{port}")


def test_namespace_that_may_not_be_entered():
    """Without setns the leak is read as text from /proc and aged by borrowing; what is missing is said on stderr."""
    with elsewhere() as child:
        leak_in(child)
        prefix = refusing("setns")
        leak = only_leak(child.pid, prefix=prefix)
        outcome = run("report", "--pid", child.pid, "--min-age", 0, prefix=prefix)
    assert (leak["cause"], leak["age_is"]) == ("eof_unread", "exact")
    assert outcome.status == 1
    assert "may not be entered" in outcome.err


def test_user_without_rights_sees_his_own_process_elsewhere():
    """The owner of a process may not enter its namespace, yet finds its leak, and is told what he could not see."""
    with elsewhere() as child:
        port = leak_in(child)
        teach(child, BECOME_NOBODY)
        outcome = run("report", "--json", "--pid", child.pid, "--min-age", 0, prefix=AS_NOBODY)
        (leak,) = outcome.json["leaks"]
        assert (leak["pid"], leak["local"]) == (child.pid, f"127.0.0.1:{port}")
    assert outcome.status == 1
    assert "not seen" in outcome.err
    assert "may not be entered" in outcome.err


def test_user_without_rights_on_the_namespace_of_another():
    """On another user's process in another namespace the answer is one clear line and exit status 2."""
    with elsewhere() as child:
        leak_in(child)
        outcome = run("report", "--pid", child.pid, "--min-age", 0, prefix=AS_NOBODY)
    assert (outcome.status, outcome.out) == (2, "")
    assert str(child.pid) in outcome.err.splitlines()[0]
    assert "CAP_SYS_PTRACE" in outcome.err.splitlines()[0]


@pytest.mark.usefixtures("no_garbage")
def test_a_look_does_not_change_the_namespace_of_the_looker(tmp_path):
    """Entering a namespace is done by a thread of its own: the process that looked is at home afterwards."""
    with elsewhere() as child:
        leak_in(child)
        from sockguard._core.leaks import find_leaks  # noqa: PLC0415
        from sockguard._kernel.linux import look_at_processes  # noqa: PLC0415

        before = netns_of("self"), len(os.listdir("/proc/self/fd"))
        snapshot = look_at_processes([child.pid])
        assert (netns_of("self"), len(os.listdir("/proc/self/fd"))) == before
        assert [leak.pid for leak in find_leaks(snapshot, min_age=0, pids=[child.pid])] == [child.pid]
        with socket.create_server(("127.0.0.1", 0)) as here:
            assert netns_of("thread-self") == before[0]
            assert here.getsockname()[1]
