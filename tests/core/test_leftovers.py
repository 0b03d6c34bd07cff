"""What is told of a socket that was left open."""

import pickle

import pytest

from sockguard._core.ignoring import parse_rule
from sockguard._core.leftovers import Leftover, LeftoverCause, headline, lines_of, story

TCP = Leftover(
    cause="retained",
    remedy="Close it.",
    protocol="TCP",
    state="ESTABLISHED",
    local="127.0.0.1:50000",
    remote="127.0.0.1:8000",
    fd=9,
    inode=1234,
    pid=1,
    age_seconds=0.25,
    created_at=("lib.py:1 in dial", "app.py:42 in fetch"),
    created_by=("app.fetch", "lib.dial"),
    source="dial(address)",
    source_at="app.py:42 in fetch",
    held_by=("list 'pool' of module app",),
    owner="test_a.py::test_a",
    opened_in="",
    fixture="",
)


def test_headline():
    """Which socket it is: protocol, both ends, state, descriptor, age."""
    assert headline(TCP) == "TCP 127.0.0.1:50000 -> 127.0.0.1:8000, ESTABLISHED, fd 9, 250 ms old"
    unbound = TCP._replace(local="", remote="", state="UNCONNECTED", fd=None, age_seconds=2.0)
    assert headline(unbound) == "TCP, UNCONNECTED, 2.0 s old"


def test_lines():
    """Everything that is known, a line each; the line of code stands below the call that it belongs to."""
    assert list(lines_of(TCP))[1:] == [
        "  cause      retained",
        "  opened at  lib.py:1 in dial",
        "             app.py:42 in fetch",
        "                 dial(address)",
        "  held by    list 'pool' of module app",
        "  remedy     Close it.",
        "  to ignore  socket_leaks_ignore = created-by:app.fetch",
    ]


def test_lines_for_a_place_not_seen():
    """Of a socket opened in C it is said that nobody saw it."""
    told = list(lines_of(TCP._replace(created_at=(), source="", source_at="", created_by=())))
    assert "  opened at  (not seen: in C, or before anybody looked)" in told


def test_story_begins_with_a_summary():
    """The first line says how many, where, and who; places are counted once."""
    other = TCP._replace(source_at="app.py:7 in listen")
    assert story("the block", [TCP]).splitlines()[0] == "1 socket left open, opened at app.py:42 in fetch, by the block"
    first = story("the block", [TCP, TCP, other]).splitlines()[0]
    assert first == "3 sockets left open, opened at app.py:42 in fetch and 1 other places, by the block"


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({}, "created-by:app.fetch"),
        ({"source_at": ""}, "peer:127.0.0.1:8000"),
        ({"source_at": "", "remote": ""}, "port:50000"),
        ({"source_at": "", "protocol": "Unix", "local": "/run/x"}, "path:/run/x"),
        ({"source_at": "", "local": "", "remote": ""}, "created-by:app.fetch"),
        ({"source_at": "", "local": "", "remote": "", "created_by": ()}, ""),
    ],
)
def test_ignore_line(changes, line):
    """The line proposed names the application's function, else the peer, else the port or path."""
    leftover = TCP._replace(**changes)
    assert leftover.ignore_line == line
    assert line == "" or parse_rule(line).matches(leftover)
    assert ("to ignore" in "".join(lines_of(leftover))) == bool(line)


def test_record_can_be_pickled():
    """It crosses processes."""
    assert pickle.loads(pickle.dumps(TCP)) == TCP


def test_every_cause_has_a_remedy():
    """No cause is told without what to do about it."""
    assert all(cause.remedy.endswith(".") for cause in LeftoverCause)
