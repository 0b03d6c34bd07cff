"""A connection that several processes or descriptors hold is one leak, and all its holders are named."""

import contextlib
import os
import socket
from collections.abc import Iterator

import pytest

from children import start_child
from commands import only_leak, report
from netstat import CLOSE_WAIT, rows, wait_for
from servers import port_of, start_program, teach

pytestmark = [pytest.mark.slow, pytest.mark.one_python]


@contextlib.contextmanager
def forking_server(*arguments: str) -> Iterator[tuple[int, list[int], int]]:
    """Starts forking.py, connects and hangs up; gives its pid, its children and the port."""
    with start_program(*arguments, name="forking.py") as process:
        port = int(process.stdout.readline())
        with socket.create_connection(("127.0.0.1", port)):
            word, *children = process.stdout.readline().split()
        assert word == "parent"
        wait_for(port, state=CLOSE_WAIT, inode=True)
        yield process.pid, sorted(map(int, children)), port


def pids_of(leak: dict) -> list[int]:
    return [holder["pid"] for holder in leak["holders"]]


@pytest.mark.parametrize("options", [[], ["--close-listener"]], ids=["listener kept", "listener closed"])
def test_children_that_keep_what_the_parent_closed(options):
    """The parent closed, three forked children hold: cause `shared`, all three named, once, at the lowest pid.

    Asked for the parent alone, which accepted and closed it, the report names the children as well.
    """
    with forking_server("children", *options) as (parent, children, port):
        leak = only_leak(*children)
        assert (leak["cause"], leak["side"], leak["local"]) == ("shared", "server", f"127.0.0.1:{port}")
        assert (leak["pid"], pids_of(leak)) == (children[0], children)
        for holder in leak["holders"]:
            assert os.readlink(f"/proc/{holder['pid']}/fd/{holder['fd']}") == f"socket:[{leak['inode']}]"
        of_parent = only_leak(parent)
        assert (of_parent["cause"], of_parent["pid"], pids_of(of_parent)) == ("shared", children[0], children)


def test_listed_under_the_lowest_pid_that_was_asked_for():
    """Asked for one child or for two, in any order, the report still names all three holders."""
    with forking_server("children") as (_, children, _):
        for asked in ([children[2]], [children[2], children[1]], children[::-1]):
            leak = only_leak(*asked)
            assert (leak["pid"], pids_of(leak)) == (min(asked), children)


def test_all_processes_find_a_shared_leak_once():
    """`report --all` lists a connection with three holders once."""
    with forking_server("children") as (_, children, port):
        (leak,) = [leak for leak in report()["leaks"] if leak["local"] == f"127.0.0.1:{port}"]
        assert (leak["cause"], leak["pid"], pids_of(leak)) == ("shared", children[0], children)


def test_parent_that_keeps_it_too_is_to_blame_itself():
    """If the parent holds it as well, the cause is what it failed to do; the remedy says that it is shared."""
    with forking_server("family") as (parent, children, _):
        leak = only_leak(parent)
        assert (leak["cause"], leak["pid"], pids_of(leak)) == ("eof_unread", parent, [parent, *children])
        assert "all 4 processes" in leak["remedy"]


def test_single_child_of_a_forking_server_is_no_sharing():
    """Of socketserver's ForkingMixIn one child holds the connection: the cause is that child's own."""
    with forking_server("mixin") as (parent, (child,), _):
        leak = only_leak(child)
        assert (leak["cause"], leak["pid"], pids_of(leak)) == ("eof_unread", child, [child])
        assert "shared" not in leak["remedy"]
        assert report(parent)["leaks"] == []


def test_prefork_workers_each_have_their_own_leaks():
    """Workers that inherited the listener and accept themselves share nothing but that listener."""
    with start_program(name="prefork.py") as process:
        port = int(process.stdout.readline())
        workers = sorted(map(int, process.stdout.readline().split()))
        with contextlib.ExitStack() as stack:
            for _ in range(12):
                stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            wait_for(port, count=12, state=1, inode=True)
        wait_for(port, count=12, state=CLOSE_WAIT, inode=True)
        leaks = report(*workers)["leaks"]
        assert len(leaks) == 12
        for leak in leaks:
            assert (leak["cause"], pids_of(leak)) == ("eof_unread", [leak["pid"]])
        assert report(process.pid)["leaks"] == []


def test_two_descriptors_of_one_process_are_one_leak():
    """A dup'ed connection is listed once, under its lowest descriptor; both are named, and nothing is called shared."""
    with start_child() as child:
        teach(
            child,
            """
            listener = socket.create_server(("127.0.0.1", 0))
            client = socket.create_connection(listener.getsockname())
            server, _ = listener.accept()
            copy = server.dup()
            client.close()
            """,
        )
        wait_for(int(child.ask("listener.getsockname()[1]")), state=CLOSE_WAIT)
        fds = [int(child.ask(f"{name}.fileno()")) for name in ("server", "copy")]
        leak = only_leak(child.pid)
        assert (leak["cause"], leak["fd"]) == ("eof_unread", min(fds))
        assert [(holder["pid"], holder["fd"]) for holder in leak["holders"]] == [(child.pid, fd) for fd in sorted(fds)]
        child.do("server.close()")
        assert only_leak(child.pid)["fd"] == fds[1]


def test_number_that_was_reused_is_another_connection():
    """A new connection under an old number is silent while it is healthy, and has a cookie of its own when it leaks."""
    with start_child() as child, socket.create_server(("127.0.0.1", 0)) as listener:
        port = port_of(listener)
        child.do(f"client = socket.create_connection(('127.0.0.1', {port}))")
        listener.accept()[0].close()
        old = only_leak(child.pid)
        child.do("client.close()")
        child.do(f"client = socket.create_connection(('127.0.0.1', {port}))")
        second, _ = listener.accept()
        assert int(child.ask("client.fileno()")) == old["fd"]
        assert report(child.pid)["leaks"] == []
        second.close()
        wait_for(int(child.ask("client.getsockname()[1]")), state=CLOSE_WAIT)
        new = only_leak(child.pid)
        assert new["fd"] == old["fd"]
        assert new["cookie"] != old["cookie"]
        assert new["remote"] == old["remote"]


def test_holder_outside_the_processes_asked_for_is_found():
    """A helper program that inherited the descriptor is named as holder, though nobody asked for it."""
    with socket.create_server(("127.0.0.1", 0)) as listener, start_child() as child:
        child.do(f"import subprocess; client = socket.create_connection(('127.0.0.1', {port_of(listener)}))")
        child.do("helper = subprocess.Popen(['cat'], stdin=subprocess.PIPE, pass_fds=[client.fileno()])")
        helper = int(child.ask("helper.pid"))
        try:
            port = int(child.ask("client.getsockname()[1]"))
            listener.accept()[0].close()
            wait_for(port, state=CLOSE_WAIT)
            leak = only_leak(child.pid)
            assert sorted(pids_of(leak)) == sorted([child.pid, helper])
            assert [holder["command"] for holder in leak["holders"] if holder["pid"] == helper] == ["cat"]
            assert "all 2 processes" in leak["remedy"]
        finally:
            child.do("helper.stdin.close(); helper.wait()")
    assert not [row for row in rows(port) if row.inode]
