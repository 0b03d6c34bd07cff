"""Connections of this process, lent by a verified duplicate: never the wrong one, never a file of the program."""

import contextlib
import gc
import os
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator

import pytest

from loopback import connect, inode_of, vanished_peer
from sockguard._kernel.activity import read_activity
from sockguard._kernel.borrow import Borrower, Gone
from sockguard._kernel.one_socket import read_cookie
from sockguard.errors import InternalError


@pytest.fixture
def borrower() -> Iterator[Borrower]:
    with contextlib.closing(Borrower()) as borrower:
        yield borrower


def numbers() -> dict[int, str]:
    """All descriptors of this process and what they are."""
    found = {}
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found[int(number)] = os.readlink(f"/proc/self/fd/{number}")
    return found


# What is lent


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_lent_connection_is_the_one_that_was_meant(borrower: Borrower, family: socket.AddressFamily) -> None:
    """The same socket under another number, with both addresses whole, of either family."""
    with vanished_peer(family, sent=b"hello") as connection:
        cookie = read_cookie(connection.server)
        with borrower.borrow(connection.server.fileno(), cookie) as lent:
            assert lent.fileno() != connection.server.fileno()
            assert (inode_of(lent), read_cookie(lent)) == (inode_of(connection.server), cookie)  # type: ignore[arg-type]
            assert (lent.getsockname(), lent.getpeername()) == (
                connection.server.getsockname(),
                connection.server.getpeername(),
            )
            assert read_activity(lent) == read_activity(connection.server)


def test_any_connection_is_lent_where_no_cookie_is_asked(borrower: Borrower) -> None:
    """Whoever does not know it yet learns it so."""
    with connect() as connection, borrower.borrow(connection.server.fileno()) as lent:
        assert read_cookie(lent) == read_cookie(connection.server)


def test_act_on_the_loan_is_an_act_on_the_connection(borrower: Borrower) -> None:
    """shutdown() through it reaches the peer."""
    with connect() as connection:
        with borrower.borrow(connection.server.fileno()) as lent:
            lent.shutdown(socket.SHUT_WR)
        assert connection.client.recv(1) == b""


def test_closing_by_the_owner_is_not_put_off_by_a_former_loan(borrower: Borrower) -> None:
    """Nothing of it is kept: when the owner closes, the peer learns of it at once."""
    with connect() as connection:
        with borrower.borrow(connection.server.fileno()):
            pass
        connection.server.close()
        assert connection.client.recv(1) == b""


@pytest.mark.usefixtures("no_garbage")
def test_nothing_is_left_behind(borrower: Borrower) -> None:
    """After a loan, well or badly ended, the process has the descriptors that it had, and each is what it was."""
    with connect() as connection:
        before = numbers()
        with borrower.borrow(connection.server.fileno()):
            assert numbers().keys() == before.keys()
        with pytest.raises(ZeroDivisionError), borrower.borrow(connection.server.fileno()):
            raise ZeroDivisionError
        with pytest.raises(Gone), borrower.borrow(connection.server.fileno(), 1):
            pass
        assert numbers() == before


@pytest.mark.parametrize("default", [None, 0.0, 5.0])
@pytest.mark.parametrize("is_blocking", [True, False])
def test_blocking_mode_of_the_owner_is_untouched(default: float | None, is_blocking: bool) -> None:
    """O_NONBLOCK is shared, and setdefaulttimeout() must not set it, at any moment of a loan."""
    with connect() as connection:
        fd = connection.server.fileno()
        os.set_blocking(fd, is_blocking)
        socket.setdefaulttimeout(default)
        try:
            with contextlib.closing(Borrower()) as borrower:
                with borrower.borrow(fd) as lent:
                    assert os.get_blocking(fd) == is_blocking
                    assert lent.gettimeout() == 0.0
                assert os.get_blocking(fd) == is_blocking
        finally:
            socket.setdefaulttimeout(None)


def test_no_child_program_inherits_a_loan(borrower: Borrower) -> None:
    """It is closed on exec, while it is lent and afterwards."""
    with connect() as connection:
        with borrower.borrow(connection.server.fileno()) as lent:
            number = lent.fileno()
            assert not os.get_inheritable(number)
        assert not os.get_inheritable(number)


# What is not lent


def test_another_connection_at_the_number_is_not_lent(borrower: Borrower) -> None:
    """The number was given to the next connection: the cookie tells, and that one is not touched."""
    with connect() as meant, connect() as other:
        fd, cookie = meant.server.fileno(), read_cookie(meant.server)
        os.dup2(other.server.fileno(), fd)
        with pytest.raises(Gone), borrower.borrow(fd, cookie):
            pytest.fail("lent")
        with borrower.borrow(fd, read_cookie(other.server)):
            pass


@pytest.mark.parametrize("cookie", [None, 1])
def test_closed_descriptor_is_gone(borrower: Borrower, cookie: int | None) -> None:
    """Also a number that never was one."""
    with connect() as connection:
        fd = connection.server.fileno()
        connection.server.close()
        for number in (fd, -1, 1 << 19):
            with pytest.raises(Gone), borrower.borrow(number, cookie):
                pytest.fail("lent")


@pytest.mark.parametrize("cookie", [None, 1])
def test_file_is_gone(borrower: Borrower, cookie: int | None) -> None:
    """A number that is no socket any more."""
    with open(os.devnull) as file, pytest.raises(Gone), borrower.borrow(file.fileno(), cookie):
        pytest.fail("lent")


def test_own_number_is_gone(borrower: Borrower) -> None:
    """A connection whose number we have by now was closed."""
    with connect() as connection, borrower.borrow(connection.server.fileno()) as lent:
        number = lent.fileno()
    with pytest.raises(Gone), borrower.borrow(number):
        pytest.fail("lent")


def test_loan_within_a_loan_is_refused(borrower: Borrower) -> None:
    """There is one number: a second loan would put another connection under the hands of the first borrower."""
    with connect() as one, connect() as other, borrower.borrow(one.server.fileno()) as lent:
        with pytest.raises(InternalError), borrower.borrow(other.server.fileno()):
            pytest.fail("lent")
        assert read_cookie(lent) == read_cookie(one.server)


# Threads and forks


@pytest.mark.slow
def test_threads_wait_for_each_other(borrower: Borrower) -> None:
    """Each has its own connection all the time that it is lent to it."""
    with connect() as one, connect() as other:
        wrong: list[int] = []

        def borrow_often(sock: socket.socket) -> None:
            cookie = read_cookie(sock)
            for _ in range(2000):
                with borrower.borrow(sock.fileno(), cookie) as lent:
                    wrong.extend(found for found in [read_cookie(lent)] if found != cookie)

        threads = [threading.Thread(target=borrow_often, args=(sock,)) for sock in (one.server, other.server)]
        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-5)
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        finally:
            sys.setswitchinterval(interval)
        assert wrong == []


PREFACE = """
import gc, os, resource, socket, sys, threading, warnings
from loopback import connect, inode_of, vanished_peer
from sockguard._kernel.activity import read_activity
from sockguard._kernel.borrow import Borrower, Gone
from sockguard._kernel.one_socket import read_cookie
"""


def run(script: str) -> list[str]:
    """Runs a script in a process of its own, as it closes or forks what others need; returns what it prints."""
    command = [sys.executable, "-c", PREFACE + textwrap.dedent(script)]
    environment = os.environ | {"PYTHONPATH": os.path.dirname(os.path.dirname(__file__))}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split("\n")[:-1]


@pytest.mark.slow
def test_fork_waits_until_the_loan_is_over() -> None:
    """A child never has the duplicate, by which it would keep the connection open when its owner closes it."""
    script = """
    warnings.simplefilter("ignore")
    borrower, order = Borrower(), []
    is_lent, is_forking = threading.Event(), threading.Event()
    os.register_at_fork(before=is_forking.set)  # the last to be registered is the first to be called
    with connect() as connection:
        def hold():
            with borrower.borrow(connection.server.fileno()):
                is_lent.set()
                is_forking.wait()
                order.append("loan is over")
        thread = threading.Thread(target=hold)
        thread.start()
        is_lent.wait()
        if (pid := os.fork()) == 0:
            inode = inode_of(connection.server)
            mine = 0
            for number in range(256):
                try:
                    mine += os.fstat(number).st_ino == inode
                except OSError:
                    pass
            with borrower.borrow(connection.server.fileno()):
                order.append("child borrows")
            print(order, mine, flush=True)
            os._exit(0)
        thread.join()
        os.waitpid(pid, 0)
        borrower.close()
    """
    assert run(script) == ["['loan is over', 'child borrows'] 1"]


# Descriptors run short, or are taken away


@pytest.mark.slow
def test_no_free_descriptor_is_needed() -> None:
    """It works when the process has none left, which is when it is needed most."""
    script = """
    with vanished_peer(sent=b"hello") as connection:
        borrower = Borrower()
        highest = max(map(int, os.listdir("/proc/self/fd")))
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 20, highest + 20))
        taken = []
        try:
            while True:
                taken.append(os.dup(0))
        except OSError as error:
            print(error.strerror)
        with borrower.borrow(connection.server.fileno(), read_cookie(connection.server)) as lent:
            print(read_activity(lent).unread)
            lent.shutdown(socket.SHUT_RDWR)
        borrower.close()
    """
    assert run(script) == ["Too many open files", "5"]


@pytest.mark.slow
@pytest.mark.parametrize("n_free", [0, 1])
def test_without_two_descriptors_it_does_not_begin(n_free: int) -> None:
    """It says EMFILE, and gives back what it had taken."""
    script = f"""
    resource.setrlimit(resource.RLIMIT_NOFILE, (20, 20))
    taken = []
    try:
        while True:
            taken.append(os.dup(0))
    except OSError:
        pass
    for number in taken[:{n_free}]:
        os.close(number)
    try:
        Borrower()
    except OSError as error:
        print(error.strerror)
    gc.collect()
    print(*[os.dup(0) in taken for _ in range({n_free})])
    """
    assert run(script) == ["Too many open files", "True" if n_free else ""]


@pytest.mark.slow
def test_limit_below_its_number() -> None:
    """A program may lower its limit at any time: then it takes a lower number, and what is closed is gone as ever."""
    script = """
    with vanished_peer(sent=b"hello") as connection:
        taken = [os.dup(0) for _ in range(60)]
        borrower = Borrower()
        for number in taken:
            os.close(number)
        resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
        before = set(os.listdir("/proc/self/fd"))
        for _ in range(2):
            with borrower.borrow(connection.server.fileno(), read_cookie(connection.server)) as lent:
                print(read_activity(lent).unread, lent.fileno() < 40)
        print(len(before) == len(os.listdir("/proc/self/fd")))
        for closed in (39, 70, -1):
            try:
                borrower.borrow(closed).__enter__()
            except Gone:
                print("gone")
        borrower.close()
    """
    assert run(script) == ["5 True", "5 True", "True", "gone", "gone", "gone"]


@pytest.mark.slow
def test_limit_below_its_number_and_all_below_taken() -> None:
    """It says EMFILE, and not that the connection is gone; when a number is free again, it works."""
    script = """
    with vanished_peer(sent=b"hello") as connection:
        taken = [os.dup(0) for _ in range(60)]
        borrower = Borrower()
        resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
        for _ in range(2):
            try:
                borrower.borrow(connection.server.fileno(), read_cookie(connection.server)).__enter__()
            except OSError as error:
                print(error.strerror)
        os.close(taken[0])
        with borrower.borrow(connection.server.fileno(), read_cookie(connection.server)) as lent:
            print(read_activity(lent).unread, lent.fileno() == taken[0])
        borrower.close()
    """
    assert run(script) == ["Too many open files", "Too many open files", "5 True"]


@pytest.mark.slow
@pytest.mark.parametrize("n_files", [0, 1, 2, 3])
def test_files_of_a_program_that_closed_all_descriptors_survive(n_files: int) -> None:
    """A daemon closes our numbers and opens files at them: these are neither closed nor replaced, and we go on."""
    script = f"""
    import tempfile
    borrower = Borrower()
    folder = tempfile.mkdtemp()
    os.closerange(3, 1000)
    def identity(number):
        status = os.fstat(number)
        return status.st_dev, status.st_ino
    files = [os.open(f"{{folder}}/{{n}}", os.O_CREAT | os.O_RDWR) for n in range({n_files})]
    before = [identity(number) for number in files]
    print(*files)
    with connect() as connection:
        for _ in range(3):
            with borrower.borrow(connection.server.fileno(), read_cookie(connection.server)) as lent:
                print(lent.getpeername() == connection.client.getsockname(), lent.fileno() not in files)
        print([identity(number) for number in files] == before)
        del lent
        borrower.close()
        gc.collect()
        print([identity(number) for number in files] == before)
        left = set(map(int, os.listdir("/proc/self/fd"))) - {{*files, *(sock.fileno() for sock in connection)}}
        print(len(left))
    """
    borrowed = ["True True"] * 3
    # Left are 0 to 2, and what listdir() has open.
    assert run(script) == [" ".join(map(str, range(3, 3 + n_files))), *borrowed, "True", "True", "4"]


@pytest.mark.parametrize("which", ["lent", "blank"])
def test_file_of_the_program_at_one_of_our_numbers_survives(borrower: Borrower, which: str) -> None:
    """New numbers are taken, and of the old pair only what is still ours is closed."""
    with connect() as connection, open(os.devnull) as file:
        with borrower.borrow(connection.server.fileno()) as lent:
            inode = os.stat(lent.fileno()).st_ino
            number = lent.fileno()
        twins = [n for n, what in numbers().items() if what == os.readlink(f"/proc/self/fd/{number}")]
        taken = number if which == "lent" else next(n for n in twins if n != number)
        os.dup2(file.fileno(), taken)
        before = os.fstat(taken)
        with borrower.borrow(connection.server.fileno(), read_cookie(connection.server)) as lent:
            assert inode_of(lent) == inode_of(connection.server) == inode  # type: ignore[arg-type]
            assert lent.fileno() != taken
        assert os.fstat(taken) == before
        assert len(twins) == 2
        os.close(taken)


@pytest.mark.usefixtures("no_garbage")
def test_forgotten_one_goes_silently() -> None:
    """Without a warning, and with its numbers; one that was closed before as well."""
    before = numbers()
    borrower = Borrower()
    del borrower
    borrower = Borrower()
    borrower.close()
    del borrower
    gc.collect()
    assert numbers().keys() == before.keys()
