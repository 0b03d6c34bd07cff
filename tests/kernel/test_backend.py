"""Who keeps the books: the kernel of TCP connections on Linux, and the wrapper of all others."""

import os
import socket
import subprocess
import sys

import pytest

from sockguard._kernel import backend
from sockguard._kernel.backend import VARIABLE, family_of, keeps_books, require_books
from sockguard._kernel.tcp_info import read_tcp_info
from sockguard.errors import KernelUnavailable

ASK = "from sockguard._kernel.backend import KERNEL_KEEPS_BOOKS as it; print(it)"

needs_books = pytest.mark.needs_books


def run(value: str | None, *, prelude: str = "") -> str:
    """Asks a fresh interpreter, with the variable set to a value or not at all."""
    environment = {name: text for name, text in os.environ.items() if name != VARIABLE}
    environment |= {} if value is None else {VARIABLE: value}
    code = [sys.executable, "-P", "-c", prelude + ASK]
    return subprocess.run(code, env=environment, capture_output=True, text=True, timeout=60, check=True).stdout.strip()


@pytest.mark.parametrize(
    ("value", "expected"), [(None, "True"), ("", "True"), ("kernel", "True"), ("portable", "False")]
)
def test_on_linux_the_kernel_keeps_them_unless_the_variable_says_otherwise(value, expected):
    """It is read once, at import; only `portable` means something."""
    assert run(value) == expected


def test_elsewhere_the_kernel_keeps_none():
    """Whatever the variable says."""
    assert run("kernel", prelude="import sys; sys.platform = 'darwin'\n") == "False"
    assert run(None, prelude="import socket; del socket.TCP_INFO\n") == "False"


def sockets():
    """One socket of each kind that this system has."""
    wanted = {
        "TCP": (socket.AF_INET, socket.SOCK_STREAM, 0),
        "TCP by its number": (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP),
        "TCP over IPv6": (socket.AF_INET6, socket.SOCK_STREAM, 0),
        "Unix": (socket.AF_UNIX, socket.SOCK_STREAM, 0),
        "UDP": (socket.AF_INET, socket.SOCK_DGRAM, 0),
        "SCTP": (socket.AF_INET, socket.SOCK_STREAM, 132),
        "MPTCP": (socket.AF_INET, socket.SOCK_STREAM, 262),
    }
    return [pytest.param(*how, id=name) for name, how in wanted.items()]


@needs_books
@pytest.mark.parametrize(("family", "kind", "proto"), sockets())
def test_it_agrees_with_the_kernel(family, kind, proto):
    """Books are kept of just those sockets that answer to TCP_INFO; of MPTCP they are those of no connection."""
    try:
        sock = socket.socket(family, kind, proto)
    except OSError:
        pytest.skip("this kernel has no such protocol")
    with sock:
        try:
            read_tcp_info(sock)
            is_told = proto != 262
        except OSError:
            is_told = False
        assert keeps_books(sock) == is_told


class Claim:
    """What an event loop gives in place of a socket."""

    family, type, proto = socket.AF_INET, socket.SOCK_STREAM, 6

    def fileno(self):
        return -1


@needs_books
def test_what_stands_for_a_socket_is_told_by_what_it_claims():
    """As the sockets of asyncio and uvloop transports, which are no sockets."""
    assert keeps_books(Claim())
    claim = Claim()
    claim.family = socket.AF_UNIX
    assert not keeps_books(claim)


def test_without_kernel_books_none_are_kept(monkeypatch):
    """Of no socket at all."""
    monkeypatch.setattr(backend, "KERNEL_KEEPS_BOOKS", False)
    with socket.socket() as sock:
        assert not keeps_books(sock)


def test_the_family_is_a_plain_number():
    """The same as the Enum member that `socket.socket` makes of it."""
    with socket.socket() as sock:
        assert (family_of(sock), type(family_of(sock))) == (socket.AF_INET, int)
    assert family_of(Claim()) == socket.AF_INET


@needs_books
def test_what_needs_books_goes_on_where_there_are_some():
    """On Linux, that is."""
    require_books("guarding everything")


@pytest.mark.parametrize(
    ("system", "why"),
    [("darwin", "darwin is not Linux. Use the wrappers"), ("linux", "SOCKGUARD_BACKEND=portable is set. Unset it")],
)
def test_what_needs_books_is_one_clear_error_where_there_are_none(monkeypatch, system, why):
    """With the reason, and what to do instead."""
    monkeypatch.setattr(backend, "KERNEL_KEEPS_BOOKS", False)
    monkeypatch.setattr(sys, "platform", system)
    with pytest.raises(KernelUnavailable) as caught:
        require_books("guarding everything")
    assert str(caught.value).startswith("guarding everything is not available: " + why.removesuffix(" it"))
