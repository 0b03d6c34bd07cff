"""Whether the same sockets are open is told without looking at each, and never wrongly."""

import os
import socket

import pytest

from children import start_child
from forks import succeeds_in_child
from sockguard._kernel.own_fds import read_fd_count
from sockguard._kernel.own_sockets import read_descriptors
from sockguard._kernel.standing import Standing


@pytest.fixture
def standing():
    """Gives back its descriptors at the end."""
    made = Standing()
    yield made
    made.close()


@pytest.fixture
def some():
    """A few sockets that are open."""
    made = [socket.socket() for _ in range(5)]
    yield made
    for sock in made:
        sock.close()


def remember(standing):
    """Takes down what is open now."""
    standing.remember(*read_descriptors())


def test_nothing_is_known_at_first(standing):
    """Who remembers nothing does not say that it is the same."""
    assert not standing.is_same()


def test_the_same(standing, some):
    """As long as nothing is opened or closed, and after something was that is gone again."""
    remember(standing)
    assert standing.is_same()
    socket.socket().close()
    assert standing.is_same()


@pytest.mark.parametrize("change", ["opens", "closes", "replaces", "replaces a file"])
def test_a_change(standing, some, change):
    """One more, one less, another in the place of one, or in that of a file: it is another."""
    file = os.open(os.devnull, os.O_RDONLY)
    other = None
    remember(standing)
    if change in ("closes", "replaces"):
        fd = some.pop().detach()
        os.close(fd)
    if change == "replaces a file":
        os.close(file)
    if change != "closes":
        other = socket.socket()
    assert not standing.is_same()
    if change != "replaces a file":
        os.close(file)
    if other is not None:
        other.close()


def test_a_replaced_duplicate(standing, some):
    """The entry of a closed number lives on with its duplicate; it is found all the same."""
    with some[0].dup() as kept:
        assert kept.fileno() >= 0
        remember(standing)
        os.close(some.pop(0).detach())
        with socket.socket():
            assert not standing.is_same()


def test_with_a_child_nothing_is_known(standing, some):
    """A child may have duplicates that keep entries alive."""
    remember(standing)
    with start_child():
        assert not standing.is_same()
        remember(standing)
        assert not standing.is_same()


def test_in_a_forked_child_nothing_is_known(standing, some):
    """Its table is another."""
    remember(standing)
    assert succeeds_in_child(lambda: not standing.is_same())


@pytest.mark.usefixtures("no_garbage")
def test_descriptors_are_given_back(standing, some):
    """It holds two while it remembers."""
    count = read_fd_count()
    remember(standing)
    assert read_fd_count() == count + 2
    standing.close()
    assert read_fd_count() == count


def test_closed_behind_its_back(standing, some):
    """A program that closes all numbers takes ours, too: then nothing is known, and nobody else's file is closed."""
    remember(standing)
    numbers = [standing._info, standing._epoll.fileno()]  # noqa: SLF001
    for number in numbers:
        os.close(number)
    files = [os.open(os.devnull, os.O_RDONLY) for _ in numbers]
    assert sorted(files) == sorted(numbers)
    assert not standing.is_same()
    standing.close()
    for file in files:
        os.close(file)


def test_opened_by_another_thread_meanwhile(standing, some):
    """What is open since the list was made is not taken for part of it."""
    known = read_descriptors()
    with socket.socket():
        standing.remember(*known)
        assert not standing.is_same()


def test_replaced_by_another_thread_meanwhile(standing, some):
    """Nor is a socket that has the number of one in the list."""
    known = read_descriptors()
    number = some[-1].fileno()
    some.pop().close()
    with socket.socket() as other:
        assert other.fileno() == number
        standing.remember(*known)
        assert not standing.is_same()


def test_remembered_again(standing, some):
    """Its own descriptors are in the second list, and are not counted as the program's."""
    for _ in range(3):
        standing.remember(*read_descriptors())
        assert standing.is_same()
    with socket.socket(), socket.socket():
        assert not standing.is_same()
