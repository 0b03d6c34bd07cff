"""Asking processes: who is believed and about what, and that no answer, however strange, does harm."""

import contextlib
import json
import os
import socket
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from children import start_child
from commands import needs_root
from servers import teach
from sockguard._core.facts import Address, Holder, ProcessFacts, Snapshot, SocketFacts
from sockguard._core.leaks import Known, Stall, find_leaks
from sockguard._kernel import control_client
from sockguard._kernel.control_client import MAX_ANSWER, ask, ask_holders, parse_answer, parse_listeners
from sockguard._kernel.control_path import Peer, socket_name
from sockguard._kernel.proc_pid import read_process, read_stat

TABLE = """\
Num       RefCount Protocol Flags    Type St Inode Path
0000000000000000: 00000002 00000000 00010000 0001 01 17 /run/a b.sock
0000000000000000: 00000002 00000000 00010000 0001 01 18 @abstract
0000000000000000: 00000003 00000000 00000000 0001 03 19 /run/connected.sock
0000000000000000: 00000002 00000000 00010000 0001 01 20
"""


def line(**answer: object) -> bytes:
    return json.dumps({"schema": 1, **answer}).encode() + b"\n"


# What is said


def test_answer_is_decoded():
    """Every key that a report uses, and the stall of the thread that owns the connection."""
    raw = line(
        connections=[
            {
                "cookie": 7,
                "created_at": ["app.py:1 in f", "app.py:9 in main"],
                "held_by": ["set 'subs' of module app"],
                "owner": "f() waits at app.py:3",
                "ended_by_guard": True,
                "reason": "fin_timeout",
                "thread": 55,
            },
            {"cookie": 8},
        ],
        stalled=[{"thread": 55, "seconds": 3, "where": ["app.py:4 in g"]}],
    )
    told = Known(
        ("app.py:1 in f", "app.py:9 in main"),
        ("set 'subs' of module app",),
        True,
        Stall(3.0, ("app.py:4 in g",)),
        "f() waits at app.py:3",
        "fin_timeout",
    )
    assert parse_answer(raw) == {7: told, 8: Known()}


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\n",
        b"{",
        line(connections=[{"cookie": 7}])[:-1],
        b"[1]\n",
        b"[" * 100_000 + b"\n",
        b'{"schema": 1, "connections": [{"cookie": ' + b"9" * 5000 + b"}]}\n",
        b"\xff\xfe\n",
        json.dumps({"schema": 2, "connections": [{"cookie": 7}]}).encode() + b"\n",
        line(connections=[{"cookie": 7}], ballast="x" * MAX_ANSWER),
        line(connections=7),
        line(connections=[7, None, {"cookie": "7"}, {"cookie": True}, {"cookie": -1}, {"cookie": 2**64}, {}]),
    ],
)
def test_what_has_another_form_is_left_out(raw):
    """Cut off, too large, of another version, no JSON, or no cookie: nothing is known then."""
    assert parse_answer(raw) == {}


def test_parts_of_another_kind_are_left_out():
    """A connection is known as far as it is told of properly; a truth is only a truth."""
    entry = {"cookie": 7, "created_at": "x", "held_by": [1, "", "y"], "ended_by_guard": 1, "owner": 5, "thread": 5}
    stalls = [
        {"thread": 5, "seconds": "3"},
        {"thread": 5, "seconds": -1},
        {"seconds": 3},
        {"thread": 5, "seconds": 1e300},
    ]
    assert parse_answer(line(connections=[entry], stalled=stalls)) == {7: Known(held_by=("y",))}
    stall = {"thread": 5, "seconds": 0.5, "where": 7}
    assert parse_answer(line(connections=[entry], stalled=[stall]))[7].stalled == Stall(0.5, ())


def test_text_cannot_drive_a_terminal_or_fill_it():
    """Control characters are taken out, and length and number of lines are limited."""
    entry = {"cookie": 7, "created_at": ["\x1b[2Jx\n" + "y" * 1000] * 1000}
    (created_at,) = [known.created_at for known in parse_answer(line(connections=[entry])).values()]
    assert created_at[0].startswith("?[2Jx?yyy")
    assert (len(created_at), len(created_at[0])) == (32, 300)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from("schema connections stalled cookie thread seconds where created_at owner".split()), inner
        )
    ),
)


@given(st.binary() | JSON.map(lambda value: json.dumps(value).encode() + b"\n"))
def test_no_answer_does_harm(raw):
    """Whatever a process sends, the report goes on."""
    assert all(type(cookie) is int and type(known) is Known for cookie, known in parse_answer(raw).items())


# Where it is


def test_listening_sockets_with_a_path_are_found():
    """A path may have blanks; abstract, connected and nameless sockets are none."""
    assert parse_listeners(TABLE) == {17: "/run/a b.sock"}
    assert parse_listeners("") == {}


@contextlib.contextmanager
def speaking(folder, answer: bytes, name: str | None = None):
    """Listens as the guard of this very process would."""
    path = str(folder / (name or socket_name(os.getpid(), read_stat("self").started)))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(1)
        with Answering(listener, answer):
            yield path


class Answering:
    """Puts the answer into a connection as soon as it is made: right before the client begins to read."""

    def __init__(self, listener, answer):
        self.listener, self.answer, self.accepted = listener, answer, []
        self.original = control_client._read_all  # noqa: SLF001

    def __enter__(self):
        control_client._read_all = self.read_all  # noqa: SLF001

    def read_all(self, connected, until):
        for _ in connected:
            server, _ = self.listener.accept()
            self.accepted.append(server)
            if self.answer:
                server.sendall(self.answer)
                server.close()
        return self.original(connected, until)

    def __exit__(self, *_):
        control_client._read_all = self.original  # noqa: SLF001
        for server in self.accepted:
            server.close()


def me() -> ProcessFacts:
    return read_process(os.getpid())


def test_process_is_asked_by_the_socket_that_it_listens_at(tmp_path):
    """Found among its descriptors, wherever it lies."""
    with speaking(tmp_path, line(connections=[{"cookie": 7}])):
        assert ask([me()]) == {os.getpid(): {7: Known()}}


def test_other_sockets_are_not_spoken_to(tmp_path):
    """Neither another program's, nor one that belongs to a process with the same pid before."""
    for name in ("other.sock", socket_name(os.getpid(), read_stat("self").started - 1)):
        with speaking(tmp_path, line(), name=name):
            assert ask([me()]) == {}


def test_file_that_is_no_socket_or_gone_is_not_used(tmp_path):
    """Whatever lies there by now."""
    with speaking(tmp_path, line()) as path:
        os.unlink(path)
        assert ask([me()]) == {}
        with open(path, "w"):
            assert ask([me()]) == {}


def test_listener_must_be_the_process_itself(tmp_path, monkeypatch):
    """The kernel says who listens: another process or user is not believed."""
    with speaking(tmp_path, line()):
        for peer in (Peer(os.getpid() + 1, os.getuid()), Peer(os.getpid(), 4711)):
            monkeypatch.setattr(control_client, "read_peer", lambda _, peer=peer: peer)
            assert ask([me()]) == {}


@needs_root
def test_file_must_be_of_the_user_or_of_root(tmp_path):
    """A file of somebody else is not connected to; root is believed: the process may have begun as root."""
    with speaking(tmp_path, line()) as path:
        os.chown(path, 65533, 65533)
        assert ask([me()]) == {}
        assert ask([me()._replace(uid=65533)]) == {os.getpid(): {}}


def test_one_that_says_nothing_is_waited_for_no_longer_than_agreed(tmp_path, monkeypatch):
    """A process that hangs must not make the report hang."""
    monkeypatch.setattr(control_client.ask, "__defaults__", (60.0,))
    with speaking(tmp_path, b""):
        started = time.monotonic()
        assert ask([me()], patience=0.05) == {os.getpid(): {}}
        assert 0.05 <= time.monotonic() - started < 20


def test_one_that_does_not_stop_is_cut_off(tmp_path, monkeypatch):
    """More than an answer can have is not read."""
    monkeypatch.setattr(control_client, "MAX_ANSWER", 1000)
    with speaking(tmp_path, b"x" * 50_000):
        assert ask([me()]) == {os.getpid(): {}}


def test_connection_that_breaks_off_is_no_answer():
    """A process may be killed while it speaks."""
    one, two = socket.socketpair()
    two.close()
    one.close()
    assert control_client._read_some(one) == b""  # noqa: SLF001


def test_process_that_is_gone_has_nothing_to_say():
    """Between two looks it may have ended."""
    assert ask([me()._replace(pid=2**22 + 1, netns=1)]) == {}


# About what it is believed


def test_process_is_believed_about_its_own_connections_only(monkeypatch):
    """What it tells of others is left out; of a shared one, the lowest pid is heard."""

    def sock(inode: int, cookie: int | None) -> SocketFacts:
        return SocketFacts(8, Address("127.0.0.1", 80), Address("192.0.2.1", 5), inode, cookie, *[0] * 6, None)

    def process(pid: int, *inodes: int) -> ProcessFacts:
        return ProcessFacts(pid, 1, 0, "x", 1, 0, 9, 9, dict.fromkeys(inodes, (3,)))

    holders = {1: (Holder(5, 3, "x"),), 2: (Holder(5, 4, "x"), Holder(6, 4, "y")), 3: (Holder(7, 3, "z"),)}
    sockets = (sock(1, 11), sock(2, 12), sock(3, 13), sock(4, None))
    snapshot = Snapshot(0.0, sockets, {5: process(5, 1, 2), 6: process(6, 2), 8: process(8)}, holders, {})
    heard = {5: {11: Known(reason="a"), 12: Known(reason="b"), 13: Known()}, 6: {12: Known(), 11: Known()}}
    asked = []
    monkeypatch.setattr(control_client, "ask", lambda processes: asked.extend(p.pid for p in processes) or heard)
    assert ask_holders(snapshot, find_leaks(snapshot)) == {11: Known(reason="a"), 12: Known(reason="b")}
    assert asked == [5, 6]


@pytest.mark.slow
def test_server_and_client_understand_each_other(tmp_path, monkeypatch):
    """Two real processes: one with a control socket, and one that asks."""
    tmp_path.chmod(0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with start_child() as child, start_child() as plain:
        teach(
            child,
            """
            import threading
            from sockguard._engine.control import ControlServer
            server = ControlServer(lambda: {"connections": [{"cookie": 7, "owner": "me"}]})
            server.open()
            def serve():
                while True:
                    server.poll()
                    threading.Event().wait(0.01)
            threading.Thread(target=serve, daemon=True).start()
            """,
        )
        found = ask([read_process(child.pid), read_process(plain.pid)], patience=30)
    assert found == {child.pid: {7: Known(owner="me")}}
