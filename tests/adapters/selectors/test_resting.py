"""Registrations that rest: gone from the inner selector, and there for the program."""

import selectors
from selectors import EVENT_READ, EVENT_WRITE

import pytest

from loopback import connect
from sockguard.adapters.selectors.resting import RegisteredMap, Resting
from sockguard.adapters.selectors.taken_away import TakenAway


@pytest.fixture
def inner():
    with selectors.DefaultSelector() as made:
        yield made


@pytest.fixture
def sock():
    with connect() as connection:
        yield connection.server


@pytest.mark.parametrize(
    ("events", "may_send", "left"),
    [
        (EVENT_READ, True, 0),
        (EVENT_READ | EVENT_WRITE, True, EVENT_WRITE),
        (EVENT_READ | EVENT_WRITE, False, 0),
        (EVENT_WRITE, False, 0),
    ],
)
def test_what_rests_comes_back_as_it_was(inner, sock, events, may_send, left):
    """The inner selector knows it as far as it may send, and after the rest as ever."""
    key = inner.register(sock, events, "data")
    resting = Resting(inner)
    view = RegisteredMap(inner.get_map(), resting, TakenAway(), None)
    assert resting.begin(key, 1.0, may_send=may_send)
    assert (inner.get_map().get(sock.fileno()) or key._replace(events=0)).events == left
    assert view[sock] == view[sock.fileno()] == key and list(view) == [sock.fileno()] and len(view) == 1
    [rest] = resting
    resting.end(rest)
    assert inner.get_key(sock) == key and not list(resting) and dict(view) == {sock.fileno(): key}


def test_what_only_sends_has_nothing_that_could_rest(inner, sock):
    """Readiness for sending is not what spins."""
    key = inner.register(sock, EVENT_WRITE)
    assert not Resting(inner).begin(key, 1.0, may_send=True)
    assert inner.get_key(sock) == key


def test_it_is_found_when_it_is_closed(inner, sock):
    """A closed object is found by its identity, an open one by its number."""
    resting = Resting(inner)
    resting.begin(inner.register(sock, EVENT_READ), 1.0, may_send=True)
    assert resting.of(sock) == resting.of(sock.fileno()) is not None
    sock.close()
    rest = resting.of(sock)
    assert rest is not None
    with pytest.raises((OSError, ValueError)):
        resting.end(rest)
    resting.forget(rest)
    assert resting.of(sock) is None


def test_the_program_gets_its_own_keys(inner, sock):
    """What is reported of one that rests in part has the key that the program has made."""
    resting = Resting(inner)
    key = inner.register(sock, EVENT_READ | EVENT_WRITE, "data")
    resting.begin(key, 1.0, may_send=True)
    assert resting.as_registered(inner.select(1)) == [(key, EVENT_WRITE)]
    assert resting.change_data(resting.of(sock), "new").data == "new"
    assert resting.as_registered(inner.select(1)) == [(key._replace(data="new"), EVENT_WRITE)]


def test_what_is_ours_is_not_shown(inner, sock):
    """What sockguard has registered itself is neither counted, nor listed, nor found."""
    with connect() as other:
        inner.register(other.server, EVENT_READ)
        key = inner.register(sock, EVENT_READ)
        view = RegisteredMap(inner.get_map(), Resting(inner), TakenAway(), other.server)
        assert dict(view) == {sock.fileno(): key} and len(view) == 1
        assert other.server not in view and other.server.fileno() not in view
    inner.close()
    assert len(view) == 0 and list(view) == []


def test_what_was_taken_away_is_not_there(inner, sock):
    """To look for a closed object that was taken away is no error; for any other it is the one that it was."""
    taken = TakenAway()
    view = RegisteredMap(inner.get_map(), Resting(inner), taken, None)
    key = inner.register(sock, EVENT_READ)
    inner.unregister(sock)
    sock.close()
    with pytest.raises(ValueError, match="Invalid file descriptor"):
        assert sock in view
    taken.add(key)
    assert sock not in view
