"""Sockets of this process of any family: what they are, and which children have a copy."""

import os
import socket
import subprocess
import sys

import pytest

from children import start_child
from loopback import connect, inode_of, vanished_peer
from sockguard._core.leftovers import Sketch
from sockguard._kernel.own_fds import read_all_sockets, read_fd_count
from sockguard._kernel.own_sockets import (
    NO_INODE,
    find_holders_among_children,
    has_children,
    is_alone,
    read_descriptors,
    read_inode,
    sketch_descriptor,
    sketch_socket,
)
from waiting import eventually


def test_descriptors_are_those_that_others_find():
    """The sockets are those of `read_all_sockets`, and all together are as many as `read_fd_count` tells."""
    with connect():
        sockets, others = read_descriptors()
        assert sockets == read_all_sockets()
        assert sum(map(len, sockets.values())) + len(others) == read_fd_count()


def test_inode():
    """It is that of the link in /proc; a descriptor that is closed has none."""
    with socket.socket() as sock:
        fd = sock.fileno()
        assert read_inode(fd) == inode_of(sock)
    assert read_inode(fd) == read_inode(-1) == NO_INODE


def test_sketch_of_tcp():
    """Listener, both ends, a fresh socket, and one whose peer has hung up."""
    with vanished_peer() as connection:
        near = "{}:{}".format(*connection.server.getsockname())
        far = "{}:{}".format(*connection.server.getpeername())
        assert sketch_socket(connection.listener) == Sketch("TCP", "LISTEN", near, "")
        assert sketch_socket(connection.server) == Sketch("TCP", "CLOSE_WAIT", near, far)
    with socket.socket() as fresh:
        assert sketch_socket(fresh) == Sketch("TCP", "UNCONNECTED", "", "")


def test_sketch_of_ipv6():
    """Addresses are written as everywhere: in brackets."""
    with connect(socket.AF_INET6) as connection:
        assert sketch_socket(connection.client).remote == f"[::1]:{connection.listener.getsockname()[1]}"


def test_sketch_of_udp():
    """Connected or not."""
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        assert sketch_socket(sock) == Sketch("UDP", "UNCONNECTED", "", "")
        sock.connect(("127.0.0.1", 9))
        assert sketch_socket(sock)[:2] == ("UDP", "ESTABLISHED")


def test_sketch_of_unix(tmp_path):
    """A path, an abstract name with @, a pair without names."""
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        assert sketch_socket(listener) == Sketch("Unix", "LISTEN", path, "")
    with socket.socket(socket.AF_UNIX) as abstract:
        abstract.bind(f"\0sockguard-{os.getpid()}")
        assert sketch_socket(abstract).local == f"@sockguard-{os.getpid()}"
    near, far = socket.socketpair()
    with near, far:
        assert sketch_socket(near) == Sketch("Unix", "ESTABLISHED", "", "")


def test_other_families_have_no_protocol():
    """A netlink socket is not counted."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as sock:
        assert sketch_socket(sock).protocol == ""


@pytest.mark.usefixtures("no_garbage")
def test_sketch_by_descriptor_leaves_it_alone():
    """It is asked through a duplicate; another socket, a file and a closed number give None."""
    with connect() as connection, open(os.devnull, "rb") as file:
        client = connection.client
        count = read_fd_count()
        assert sketch_descriptor(client.fileno(), inode_of(client)) == sketch_socket(client)
        assert sketch_descriptor(client.fileno(), inode_of(connection.server)) is None
        assert sketch_descriptor(file.fileno(), os.fstat(file.fileno()).st_ino) is None
        assert (client.fileno() >= 0, read_fd_count()) == (True, count)
    assert sketch_descriptor(10**6, 1) is None


def test_children_are_noticed_and_not_waited_for():
    """A child that lives, or has ended and was not waited for, is a child; its exit status stays to be had."""
    process = subprocess.Popen(["true"])
    assert has_children()
    assert process.wait() == 0


def test_holders_among_children():
    """A child that was given a socket is found by its inode, after we have closed ours."""
    with socket.socket() as sock:
        inode = inode_of(sock)
        with start_child(pass_fds=[sock.fileno()]) as child:
            sock.close()
            [holder] = find_holders_among_children({inode})[inode]
            assert holder.pid == child.pid
            assert find_holders_among_children({1}) == {}
    assert find_holders_among_children(set()) == {}


def test_grandchildren_are_found():
    """Whoever has it, however deep below."""
    with socket.socket() as sock:
        inode = inode_of(sock)
        fd = sock.fileno()
        script = (
            f"import os, subprocess\nchild = subprocess.Popen(['sleep', '100'], pass_fds=[{fd}])\n"
            f"os.close({fd})\nprint(child.pid, flush=True)\nchild.wait()"
        )
        process = subprocess.Popen([sys.executable, "-c", script], pass_fds=[fd], stdout=subprocess.PIPE, text=True)
        pid = int(process.stdout.readline())
        try:
            assert inode in eventually(lambda: find_holders_among_children({inode}))
            assert pid in {holder.pid for holder in find_holders_among_children({inode})[inode]}
        finally:
            os.kill(pid, 9)
            process.kill()
            process.communicate()


@pytest.mark.parametrize(("threads", "answer"), [(0, "True"), (1, "False")])
def test_alone(threads, answer):
    """Alone is a process with one thread and no child."""
    with start_child() as child:
        child.do("from sockguard._kernel.own_sockets import is_alone; import threading")
        child.do(f"[threading.Thread(target=threading.Event().wait, daemon=True).start() for _ in range({threads})]")
        assert child.ask("is_alone()") == answer


def test_not_alone_with_a_child():
    """Who has a child is not alone."""
    with start_child():
        assert not is_alone()
