"""A blank socket knows whether its number is still its own."""

import _socket
import errno
import gc
import os
import socket

import pytest

from children import start_child
from sockguard._kernel.blank import Blank


def test_number_is_ours_until_it_is_given_back() -> None:
    """Then it is closed."""
    blank = Blank()
    number = blank.fileno()
    assert blank.is_ours
    blank.close()
    assert (blank.is_ours, blank.fileno()) == (False, -1)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)


def test_no_child_program_inherits_it() -> None:
    """It is closed on exec, as all that Python opens."""
    blank = Blank()
    assert not os.get_inheritable(blank.fileno())
    blank.close()


@pytest.mark.parametrize("kind", ["file", "another socket", "closed"])
def test_number_of_somebody_else_is_left_alone(kind: str) -> None:
    """Whatever the program has at that number by now survives our close."""
    blank = Blank()
    number = blank.fileno()
    os.close(number)
    if kind == "file":
        assert os.open(os.devnull, os.O_RDONLY) == number
    elif kind == "another socket":
        assert _socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).detach() == number
    assert not blank.is_ours
    blank.close()
    if kind != "closed":
        os.fstat(number)
        os.close(number)


def test_twin_is_the_same_socket_under_another_number() -> None:
    """Both are asked at once: neither may be anybody else's."""
    blank, stranger = Blank(), Blank()
    twin = Blank(blank)
    assert (blank.is_ours_as(twin), blank.is_ours_as(stranger)) == (True, False)
    number = blank.fileno()
    os.close(number)
    assert (blank.is_ours_as(twin), twin.is_ours) == (False, True)
    for one in (blank, twin, stranger):
        one.close()


@pytest.mark.usefixtures("no_garbage")
def test_forgotten_one_goes_silently() -> None:
    """At the end of the interpreter, or wherever it is dropped: neither a warning nor a number is left."""
    before = os.listdir("/proc/self/fd")
    blank = Blank()
    del blank
    assert os.listdir("/proc/self/fd") == before


def test_without_a_descriptor_it_is_emfile() -> None:
    """Nothing is half made."""
    with start_child() as child:
        child.do("import resource; from sockguard._kernel.blank import Blank")
        child.do("resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))")
        child.do("import errno; code = 0")
        child.do("exec('try: Blank()\\nexcept OSError as error: code = error.errno')")
        assert child.ask("code == errno.EMFILE") == "True"


def test_without_a_descriptor_nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one that could not be made nothing has to be given back."""

    def refuse(*_: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(_socket, "socket", refuse)
    with pytest.raises(OSError, match="Too many open files"):
        Blank()
    gc.collect()
