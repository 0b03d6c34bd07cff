"""`sockguard report` on processes that run sockguard: what they tell of their leaks themselves."""

import contextlib
import json

import pytest

from children import start_child
from commands import PATIENT, report, run
from netstat import CLOSE_WAIT, wait_for
from servers import teach
from sockguard._core.facts import Address, SocketFacts
from sockguard._core.inference import Age, AgeKind, Side
from sockguard._core.leaks import Cause, Leak, Stall
from sockguard.cli.report_known import told_by_process

FACTS = SocketFacts(8, Address("127.0.0.1", 80), Address("192.0.2.1", 5), 100, 9, 0, 0, 0, 0, 0, 0, None)
LEAK = Leak(FACTS, Cause.EOF_IGNORED, Side.SERVER, Age(30.0, AgeKind.EXACT), None, (), ())
OPENED = LEAK._replace(created_at=("app.py:3 in serve", "app.py:9 in main"))


def test_nothing_is_said_of_a_process_that_tells_nothing():
    """The report on other programs stays as it was."""
    assert list(told_by_process([LEAK])) == []
    assert list(told_by_process([LEAK._replace(created_at=(), held_by=())])) == []


def test_each_answer_is_said_once_with_its_number():
    """Ten leaks of one line are one row; what is frequent goes first."""
    other = LEAK._replace(created_at=("app.py:5 in poll",))
    assert list(told_by_process([other, OPENED, OPENED])) == [
        ("opened at x2", "app.py:3 in serve, called at app.py:9 in main"),
        ("opened at x1", "app.py:5 in poll"),
    ]


def test_every_kind_of_answer_has_its_words():
    """Who holds it, what the owner does, what blocks it, and why the guard ended it."""
    leak = LEAK._replace(
        held_by=("set 'subs' of module app", "local 'conn' of f (app.py:3)"),
        waits_at="f() waits at app.py:3",
        stalled=Stall(62.0, ("app.py:4 in g", "app.py:8 in h")),
        ended_because="fin_timeout",
    )
    assert list(told_by_process([leak])) == [
        ("held by x1", "set 'subs' of module app; local 'conn' of f (app.py:3)"),
        ("its owner x1", "f() waits at app.py:3"),
        ("blocked x1", "for 1 min 02 s, at app.py:4 in g, called at app.py:8 in h"),
        ("ended for x1", "fin_timeout"),
    ]
    (row,) = told_by_process([LEAK._replace(stalled=Stall(1.0, ()))])
    assert row == ("blocked x1", "for 1.0 s, at a line that is not known")


def test_rows_are_limited():
    """A program that opens connections in a hundred places fills no screen."""
    leaks = [LEAK._replace(created_at=(f"app.py:{line} in f",)) for line in range(8)]
    assert [question for question, _ in told_by_process(leaks)] == ["opened at x1"] * 5 + [""]
    assert list(told_by_process(leaks))[-1] == ("", "and 3 more (--json has all)")


GUARDED = """
import threading, time
from sockguard._engine.control import ControlServer
listener = socket.create_server(("127.0.0.1", 0))
pairs = []
def connect():
    client = socket.create_connection(listener.getsockname())
    served, _ = listener.accept()
    client.close()
    pairs.append(served)
    return int.from_bytes(served.getsockopt(socket.SOL_SOCKET, 57, 8), "little")
told = {"connections": [], "stalled": []}
server = ControlServer(lambda: told)
server.open()
def serve():
    while True:
        server.poll()
        time.sleep(0.01)
threading.Thread(target=serve, daemon=True).start()
"""


@contextlib.contextmanager
def guarded(monkeypatch, folder, *entries, stalled=()):
    """Starts a process with a leak for each entry, which it tells of."""
    folder.chmod(0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    with start_child() as child:
        teach(child, GUARDED)
        for entry in entries:
            child.do(f"told['connections'].append({{'cookie': connect(), **{entry!r}}})")
        child.do(f"told['stalled'] = {list(stalled)!r}")
        wait_for(int(child.ask("listener.getsockname()[1]")), count=len(entries), state=CLOSE_WAIT, inode=True)
        yield child


@pytest.mark.slow
def test_report_says_where_it_was_opened_and_who_holds_it(monkeypatch, tmp_path):
    """In text and in JSON, for the connection with that cookie."""
    entry = {"created_at": ["app.py:3 in serve"], "held_by": ["set 'subs' of module app"], "owner": "f() waits"}
    with guarded(monkeypatch, tmp_path, entry, {}) as child:
        text = run("report", "--pid", child.pid, "--min-age", 0, prefix=PATIENT)
        found = report(child.pid, prefix=PATIENT)
    assert "opened at x1" in text.out
    assert "app.py:3 in serve" in text.out
    leaks = sorted(found["leaks"], key=lambda leak: leak["fd"])
    assert [leak["created_at"] for leak in leaks] == [["app.py:3 in serve"], None]
    assert [leak["waits_at"] for leak in leaks] == ["f() waits", None]


@pytest.mark.slow
def test_what_the_guard_has_ended_is_listed_and_is_no_leak(monkeypatch, tmp_path):
    """Exit status 0 if there is nothing else, 1 if there is; the headline says which."""
    ended = {"ended_by_guard": True, "reason": "fin_timeout"}
    with guarded(monkeypatch, tmp_path, ended) as child:
        alone = run("report", "--pid", child.pid, "--min-age", 0, prefix=PATIENT)
        found = report(child.pid, prefix=PATIENT)
        child.do("told['connections'].append({'cookie': connect()})")
        wait_for(int(child.ask("listener.getsockname()[1]")), count=2, state=CLOSE_WAIT, inode=True)
        both = run("report", "--pid", child.pid, "--min-age", 0, prefix=PATIENT)
    assert (alone.status, both.status) == (0, 1)
    assert alone.out.startswith("No leaks in 1 process, but 1 connection ended by a guard")
    assert both.out.startswith("1 leaked connection in 1 process, and 1 connection ended by a guard")
    (leak,) = found["leaks"]
    assert (leak["cause"], leak["ended_because"]) == ("ended_by_guard", "fin_timeout")


@pytest.mark.slow
def test_stall_is_the_cause(monkeypatch, tmp_path):
    """A blocked loop explains why nobody reads, and the report says in which line."""
    stall = {"thread": 5, "seconds": 3.5, "where": ["app.py:4 in g"]}
    with guarded(monkeypatch, tmp_path, {"thread": 5}, stalled=[stall]) as child:
        found = report(child.pid, prefix=PATIENT)
    assert [leak["cause"] for leak in found["leaks"]] == ["stalled"]
    assert found["leaks"][0]["stalled"] == {"seconds": 3.5, "where": ["app.py:4 in g"]}


@pytest.mark.slow
def test_dead_descriptors_that_the_guard_has_left_need_no_second_look(monkeypatch, tmp_path):
    """Their age does not matter any more, so the report does not wait for them."""
    with guarded(monkeypatch, tmp_path, {"ended_by_guard": True}) as child:
        child.do("pairs[0].shutdown(socket.SHUT_RDWR)")
        child.do("time.sleep(0.2)")
        outcome = run("report", "--pid", child.pid, "--min-age", 0.1, "--json", prefix=PATIENT)
    assert json.loads(outcome.out)["leaks"][0]["state"] == "CLOSE"
    assert (outcome.status, "looking again" in outcome.err) == (0, False)
