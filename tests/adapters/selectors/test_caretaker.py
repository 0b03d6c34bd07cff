"""Who looks after a selector's connections; what becomes of them is in test_selector.py."""

import contextlib
import os
import socket
import ssl
import time
from pathlib import Path
from selectors import EVENT_READ, SelectorKey

import pytest

from guarded import driven
from loopback import connect, listen, reset, state_of
from sockguard._core.left_open import Fate
from sockguard._core.policy import Policy
from sockguard._engine.terms import Terms
from sockguard.adapters.selectors import caretaker as module
from sockguard.adapters.selectors.caretaker import Caretaker
from waiting import eventually

CERTIFICATE = Path(__file__).parents[2] / "faults" / "programs" / "localhost.pem"
STRICT = Policy(half_close="close")


def key_of(sock, fileobj=None) -> SelectorKey:
    return SelectorKey(sock if fileobj is None else fileobj, sock.fileno(), EVENT_READ, None)


def register(caretaker, fileobj, sock) -> None:
    """Calls it as a selector does."""
    caretaker.welcome(fileobj, sock.fileno())


def fates(caretaker, *keys, n_looks=2) -> list:
    """Takes some looks, and gives what the last one has found."""
    for number in range(n_looks):
        found = [finding.fate for finding in caretaker.look(keys, time.monotonic() + number)]
    return found


@pytest.mark.needs_books
@pytest.mark.parametrize("by_number", [False, True])
def test_a_connection_is_taken_in_with_the_terms_of_the_selector(by_number):
    """The guard knows it from then on, with its policy, its side and the line that has registered it."""
    with driven() as guarded, connect() as connection:
        caretaker = Caretaker(guarded.guard, Policy(idle_timeout=5))
        for sock in (connection.server, connection.client):
            register(caretaker, sock.fileno() if by_number else sock, sock)
        guarded.tick()
        records = [guarded.guard.registry.by_fd[s.fileno()] for s in (connection.server, connection.client)]
        assert [record.is_server for record in records] == [True, False]
        assert all(record.policy_or(None).idle_timeout == 5 for record in records)
        assert all("test_caretaker" in record.site.frames()[0] for record in records)


@pytest.mark.needs_books
def test_what_the_guard_has_ended_is_found():
    """A number and an object alike, once the guard has shut them down."""
    with driven() as guarded, connect() as one, connect() as two:
        caretaker = Caretaker(guarded.guard, Policy(idle_timeout=5))
        keys = [key_of(one.server), key_of(two.server, two.server.fileno())]
        for key, sock in zip(keys, (one.server, two.server), strict=True):
            register(caretaker, key.fileobj, sock)
        guarded.tick()
        assert not any(map(caretaker.has_ended, keys))
        guarded.tick(after=1)
        guarded.tick(after=10)
        assert all(map(caretaker.has_ended, keys))
        assert fates(caretaker, *keys) == [Fate.CLOSE, Fate.CLOSE]


def test_listeners_pipes_and_nonsense_are_not_taken_in():
    """Whatever is registered, nothing fails."""
    with driven() as guarded, listen() as listener, socket.socket(type=socket.SOCK_DGRAM) as datagrams:
        caretaker = Caretaker(guarded.guard, None)
        reading, writing = os.pipe()
        for fileobj, fd in [
            (listener, listener.fileno()),
            (datagrams, datagrams.fileno()),
            (reading, reading),
            (9999, 9999),
        ]:
            caretaker.welcome(fileobj, fd)
        guarded.tick()
        assert guarded.guard.registry.by_fd == {} and guarded.told("guard_failed") == []
        os.close(reading)
        os.close(writing)


def test_a_bug_of_ours_stays_in(monkeypatch):
    """It is told, and register() goes on."""
    with driven() as guarded, connect() as connection:
        monkeypatch.setattr(module, "keeps_books", lambda _: 1 / 0)
        Caretaker(guarded.guard, None).welcome(connection.server, connection.server.fileno())
        assert "ZeroDivisionError" in guarded.told("guard_failed")[0].fields["error"]


@pytest.mark.needs_books
def test_lines_have_a_limit(monkeypatch):
    """A program that compiles code for each connection does not make it grow."""
    monkeypatch.setattr(module, "MAX_LINES", 3)
    with driven() as guarded, connect() as connection:
        caretaker = Caretaker(guarded.guard, None)
        for _ in range(10):
            exec("register(caretaker, connection.server, connection.server)", globals() | locals())
        assert len(caretaker._line_of.__self__._known) <= 3  # noqa: SLF001


def test_it_forgets_what_moves():
    """A connection that is well again when it is looked at, under the same number, begins anew."""
    with driven() as guarded, connect() as ended, connect() as other:
        caretaker = Caretaker(guarded.guard, STRICT)
        ended.client.shutdown(socket.SHUT_WR)
        eventually(lambda: fates(caretaker, key_of(ended.server), n_looks=1) == [Fate.SOON])
        fd = ended.server.detach()
        os.dup2(other.server.fileno(), fd)
        with socket.socket(fileno=fd) as reused:
            assert fates(caretaker, key_of(reused)) == []
            assert caretaker._patience == {}  # noqa: SLF001


@pytest.mark.needs_books
def test_bytes_that_tls_has_taken_are_unread():
    """What is decrypted and not read yet keeps a connection open, though the kernel has nothing left."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    with driven() as guarded, connect() as connection, contextlib.ExitStack() as stack:
        ours = context.wrap_socket(connection.server, server_side=True, do_handshake_on_connect=False)
        theirs = trusting.wrap_socket(connection.client, do_handshake_on_connect=False)
        stack.callback(ours.close)
        stack.callback(theirs.close)
        ours.setblocking(False)
        theirs.setblocking(False)
        eventually(lambda: [_try(ours.do_handshake), _try(theirs.do_handshake)] == [True, True])
        theirs.send(b"abc")
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        eventually(lambda: _try(lambda: ours.recv(1)))
        theirs.close()
        eventually(lambda: state_of(ours) == 7)
        caretaker = Caretaker(guarded.guard, None)
        assert ours.pending() == 2
        assert Fate.CLOSE not in fates(caretaker, key_of(ours), n_looks=5)
        assert ours.recv(10) == b"bc"
        assert fates(caretaker, key_of(ours)) == [Fate.CLOSE]


def _try(act) -> bool:
    try:
        act()
    except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
        return False
    return True


def test_a_closed_object_is_there_no_more():
    """A number that was closed, and one that was given to another connection, are not what was registered."""
    with driven() as guarded, connect() as connection, connect() as other:
        caretaker = Caretaker(guarded.guard, None)
        sock = connection.server
        keys = [key_of(sock), key_of(sock, sock.fileno())]
        register(caretaker, sock.fileno(), sock)
        assert all(map(caretaker.is_there, keys))
        fd = sock.detach()
        os.dup2(other.server.fileno(), fd)
        assert not any(map(caretaker.is_there, keys))
        reset(other.client)
        assert fates(caretaker, keys[1]) == []
        os.close(fd)


def test_what_the_program_has_said_of_a_connection_stays():
    """A selector without a policy of its own takes none away, also if the connection was handed on, as to TLS."""
    with connect() as c, driven() as d:
        d.adopt(c.server, terms=Terms(Policy(mode="observe")))
        d.tick()
        with socket.socket(fileno=c.server.detach()) as handed_on:
            Caretaker(d.guard, None).welcome(handed_on, handed_on.fileno())
            d.tick()
            record = d.guard.registry.by_fd[handed_on.fileno()]
            assert record() is handed_on
            assert record.policy_or(d.guard.policy).mode == "observe"
