"""`sockguard.find_leaks()` on real sockets of this process, and of others."""

import os
import socket
import subprocess
import sys
import threading

import pytest

import sockguard
from loopback import listen, vanished_peer
from waiting import eventually

LEAKING_PROGRAM = """
import socket
import sys
listener = socket.create_server(("127.0.0.1", 0))
client = socket.create_connection(listener.getsockname())
kept, _ = listener.accept()
client.close()
print(kept.getsockname()[1], flush=True)
sys.stdin.read()
"""


def leaks_of(sock: socket.socket) -> list[sockguard.Leak]:
    """Finds what `find_leaks` says of one socket, however young the leak."""
    return [leak for leak in sockguard.find_leaks(min_age=0) if leak.fd == sock.fileno()]


def test_a_connection_that_was_hung_up_on_is_a_leak():
    """It is named by descriptor, ends, state and cause, with its remedy."""
    with vanished_peer() as (_, _, server):
        eventually(lambda: leaks_of(server))
        (leak,) = leaks_of(server)
        assert (leak.state, leak.cause, leak.side) == ("CLOSE_WAIT", sockguard.Cause.EOF_UNREAD, "server")
        assert str(leak.local) == "{}:{}".format(*server.getsockname())
        assert str(leak.remote) == "{}:{}".format(*server.getpeername())
        assert leak.remedy == sockguard.Cause.EOF_UNREAD.remedy
        assert (leak.age_is, leak.created_at, leak.held_by) == ("exact", None, None)


def test_closing_it_ends_the_leak():
    """The repaired program is silent."""
    with vanished_peer() as (_, _, server):
        eventually(lambda: leaks_of(server))
        port = server.getsockname()[1]
        server.close()
        assert [leak for leak in sockguard.find_leaks(min_age=0) if leak.local.port == port] == []


def test_a_younger_connection_is_no_leak_yet():
    """`min_age` is what it says: a connection that has just been hung up on is left out."""
    with vanished_peer() as (_, _, server):
        eventually(lambda: leaks_of(server))
        assert sockguard.find_leaks(min_age=3600) == []


def test_leaks_of_other_processes_are_not_listed():
    """What another process leaks is its own affair, even where the kernel's table shows it."""
    command = [sys.executable, "-c", LEAKING_PROGRAM]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        port = int(other.stdout.readline())
        mine = [leak for leak in sockguard.find_leaks(min_age=0) if leak.local.port == port]
        other.stdin.close()
    assert mine == []


def test_a_connection_that_waits_in_our_own_accept_queue_is_listed():
    """It has neither descriptor nor inode, and is charged to this process by its listener."""
    with listen() as listener:
        socket.create_connection(listener.getsockname()).close()
        port = listener.getsockname()[1]
        eventually(lambda: [leak for leak in sockguard.find_leaks(min_age=0) if leak.local.port == port])
        (leak,) = [leak for leak in sockguard.find_leaks(min_age=0) if leak.local.port == port]
        assert (leak.cause, leak.fd, leak.inode) == (sockguard.Cause.NOT_ACCEPTED, None, None)
        assert leak.owner.fd == listener.fileno()


def test_looking_leaves_the_blocking_mode_of_sockets_alone():
    """A default timeout of the program does not make a look turn its sockets non-blocking."""
    before = socket.getdefaulttimeout()
    with vanished_peer() as (_, _, server):
        server.setblocking(True)
        server.shutdown(socket.SHUT_WR)  # over, so that it is looked at through a duplicate
        socket.setdefaulttimeout(5)
        try:
            eventually(lambda: leaks_of(server))
        finally:
            socket.setdefaulttimeout(before)
        assert leaks_of(server)[0].cause is sockguard.Cause.DEAD_FD
        assert os.get_blocking(server.fileno())


def test_it_may_be_called_from_several_threads_at_once():
    """Every thread gets the whole answer."""
    found: list[int] = []
    with vanished_peer() as (_, _, server):
        eventually(lambda: leaks_of(server))
        threads = [threading.Thread(target=lambda: found.append(len(leaks_of(server)))) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == [1] * 8


@pytest.mark.parametrize("nonsense", [-1, float("nan")])
def test_a_nonsense_age_is_refused_with_value_and_remedy(nonsense):
    """The one error names what was given, and what to give instead."""
    with pytest.raises(sockguard.UsageError, match=f"min_age={nonsense} makes no sense: give seconds, 0 or more"):
        sockguard.find_leaks(min_age=nonsense)
