"""`sockguard report`: its options, its form as JSON and as text, and what it can do without rights or netlink."""

import contextlib
import datetime as dt
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import jsonschema
import pytest

from children import Child, start_child
from commands import AS_NOBODY, needs_root, only_leak, refusing, report, run, validate
from netstat import CLOSE_WAIT, rows, wait_for
from servers import teach
from sockguard._core.leaks import Cause

pytestmark = [pytest.mark.slow, pytest.mark.one_python]

BECOME_NOBODY = """
import ctypes, os
os.setgroups([])
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
ctypes.CDLL(None).prctl(4, 1)
"""
LEAK = """
listener = socket.create_server(({host!r}, 0), family=socket.AF_INET6 if ":" in {host!r} else socket.AF_INET)
servers = []
for _ in range({count}):
    client = socket.create_connection(listener.getsockname()[:2])
    client.sendall(b"hello")
    servers.append(listener.accept()[0])
    client.close()
"""
DEAD = """
client = socket.create_connection(listener.getsockname()[:2])
dead, _ = listener.accept()
client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, bytes([1, 0, 0, 0, 0, 0, 0, 0]))
client.close()
"""


@contextlib.contextmanager
def leaking(count: int = 1, host: str = "127.0.0.1") -> Iterator[Child]:
    """Starts a process with so many leaks of the cause `unread`."""
    with start_child() as child:
        teach(child, LEAK.format(count=count, host=host))
        port = int(child.ask("listener.getsockname()[1]"))
        wait_for(port, count=count, state=CLOSE_WAIT, inode=True)
        yield child


# Options


def test_exit_status_tells_whether_there_are_leaks():
    """1 with leaks and 0 without, in text as in JSON."""
    with leaking() as child, start_child() as healthy:
        for form in ([], ["--json"]):
            assert run("report", "--pid", child.pid, "--min-age", 0, *form).status == 1
            assert run("report", "--pid", healthy.pid, "--min-age", 0, *form).status == 0


def test_several_processes():
    """--pid may be given again, in its short form too; each process is looked at once, the lowest pid first."""
    with leaking() as one, leaking(2) as two:
        found = run("report", "--json", "--min-age", 0, "-p", two.pid, "--pid", one.pid, "-p", two.pid).json
    pids = sorted([one.pid, two.pid])
    assert [process["pid"] for process in found["processes"]] == pids
    assert [leak["pid"] for leak in found["leaks"]] == sorted([one.pid, two.pid, two.pid])


def test_every_process_is_the_default():
    """Without --pid, as with --all, every process is looked at."""
    with leaking() as one, leaking() as two:
        for words in ([], ["--all"]):
            found = run("report", "--json", "--min-age", 0, *words).json
            assert {one.pid, two.pid, os.getpid()} <= {process["pid"] for process in found["processes"]}
            assert {one.pid, two.pid} <= {leak["pid"] for leak in found["leaks"]}


def test_only_one_state():
    """--state narrows the list, and with it the exit status."""
    with leaking(2) as child:
        teach(child, DEAD)
        causes = {
            name: [leak["cause"] for leak in report(child.pid, options=["--state", name])["leaks"]]
            for name in ("CLOSE_WAIT", "close")
        }
        assert causes == {"CLOSE_WAIT": ["unread"] * 2, "close": ["dead_fd"]}
        both = report(child.pid, options=["--state", "close-wait", "--state", "CLOSE"])
        assert len(both["leaks"]) == 3
        child.do("dead.close()")
        assert run("report", "--pid", child.pid, "--min-age", 0, "--state", "CLOSE").status == 0


def test_state_that_is_no_leak_names_the_other_command():
    """For a state that no leak has, the message says where such connections are counted."""
    outcome = run("report", "--state", "ESTAB")
    assert outcome.status == 2
    assert "sockguard states --state ESTABLISHED" in outcome.err


def test_two_looks_take_the_time_asked_for():
    """--wait looks twice so far apart; a leak that stands still stays listed, with its age."""
    with leaking() as child:
        started = time.monotonic()
        leak = only_leak(child.pid, options=["-w", "1.5"])
        assert time.monotonic() - started >= 1.5
    assert leak["age_is"] == "exact"
    assert leak["age_seconds"] >= 1.5


def test_limit_shortens_the_text_only():
    """--limit N shows the N oldest rows of a process and counts the rest; 0 shows all; JSON always has all."""
    with leaking(5) as child:
        leaks = report(child.pid, options=["--limit", "2"])["leaks"]
        short = run("report", "--pid", child.pid, "--min-age", 0, "--limit", 2).out
        full = run("report", "--pid", child.pid, "--min-age", 0, "--limit", 0).out
    peers = [leak["remote"] for leak in leaks]
    is_shown = [peer in short for peer in peers]
    ages = [leak["age_seconds"] for leak in leaks]
    assert sorted(is_shown) == [False, False, False, True, True]
    youngest_shown = min(age for age, shown in zip(ages, is_shown, strict=True) if shown)
    assert all(age <= youngest_shown + 0.05 for age, shown in zip(ages, is_shown, strict=True) if not shown)
    assert "and 3 younger ones" in short
    assert all(peer in full for peer in peers)
    assert "younger" not in full


# Its form


def test_schema_refuses_what_breaks_the_promise():
    """The schema is no rubber stamp: without any required key, or with a wrong kind of value, a report is refused."""
    with leaking() as child:
        found = report(child.pid)
    for path in ([], ["processes", 0], ["processes", 0, "listeners", 0], ["leaks", 0], ["leaks", 0, "holders", 0]):
        for key in _at(found, path):
            if key not in ("unseen", "uid", "netns", "held_by", "waits_at", "stalled", "ended_because"):
                broken = json.loads(json.dumps(found))
                del _at(broken, path)[key]
                with pytest.raises(jsonschema.ValidationError):
                    validate(broken)
    wrong = {"age_is": "perhaps", "cause": "bad luck", "fd": -1, "pid": 0, "local": "here", "state": "ESTABLISHED"}
    for key, value in wrong.items():
        with pytest.raises(jsonschema.ValidationError):
            validate({**found, "leaks": [{**found["leaks"][0], key: value}]})


def test_schema_allows_keys_of_the_future():
    """More keys may come at any place without breaking who validates."""
    with leaking() as child:
        found = report(child.pid)
    for path in ([], ["processes", 0], ["leaks", 0], ["leaks", 0, "holders", 0]):
        _at(found, path)["of_the_future"] = {"x": 1}
    assert validate(found) is None


def _at(found: dict, path: list) -> dict:
    for step in path:
        found = found[step]
    return found


def test_schema_knows_every_cause():
    """Each cause that sockguard names passes the schema."""
    with leaking() as child:
        found = report(child.pid)
    for cause in Cause:
        changes = {"cause": cause.value}
        if cause is Cause.NOT_ACCEPTED:
            changes |= {"fd": None, "inode": None, "holders": []}
        if cause is Cause.STALLED:
            changes |= {"stalled": {"seconds": 2.0, "where": []}}
        assert validate({**found, "leaks": [{**found["leaks"][0], **changes}]}) is None


def test_time_is_that_of_the_look():
    """`at` is the time of the look in UTC."""
    before = int(time.time())
    with start_child() as child:
        at = report(child.pid)["at"]
    after = time.time()
    assert before <= dt.datetime.fromisoformat(at).timestamp() <= after


@pytest.mark.parametrize("columns", [40, 80, 100, 119, 120, 160, 250])
def test_no_line_is_longer_than_the_screen(columns):
    """At every width the report fits, command lines and IPv6 addresses included."""
    with leaking(3, host="::1") as child:
        teach(child, DEAD)
        text = run("report", "--pid", child.pid, "--min-age", 0, COLUMNS=str(columns)).out
    assert max(len(line.rstrip()) for line in text.splitlines()) <= columns
    assert text.count("unread") >= 3


def test_narrow_and_wide_layout():
    """80 columns have what one acts on; 160 have side, state, inode and cookie as well."""
    with leaking() as child:
        leak = only_leak(child.pid)
        narrow, wide = (run("report", "--pid", child.pid, "--min-age", 0, COLUMNS=n).out for n in ("80", "160"))
    for title in ("AGE", "FD", "LOCAL", "PEER", "UNREAD", "CAUSE"):
        assert title in narrow
        assert title in wide
    for title in ("SIDE", "STATE", "INODE", "COOKIE"):
        assert title not in narrow
        assert title in wide
    assert leak["remote"] in narrow
    assert all(str(leak[key]) in wide for key in ("inode", "cookie", "side", "state", "remote"))


def test_text_has_what_one_needs_to_act():
    """The text names the process, its descriptors, the queue in front of accept(), each leak, and the remedies."""
    with leaking(2) as child:
        port = int(child.ask("listener.getsockname()[1]"))
        socket.create_connection(("127.0.0.1", port)).close()
        wait_for(port, state=CLOSE_WAIT, inode=False)
        leaks = report(child.pid)["leaks"]
        outcome = run("report", "--pid", child.pid, "--min-age", 0)
    assert (outcome.status, outcome.err) == (1, "")
    lines = outcome.out.splitlines()
    assert lines[0] == "3 leaked connections in 1 process"
    assert f"pid {child.pid}" in outcome.out
    assert "1 of " in outcome.out
    assert "wait to be accepted, 1 of them hung up already" in outcome.out
    for leak in leaks:
        assert leak["remote"] in outcome.out
        assert leak["remedy"].split(":")[0] in outcome.out
    assert "unread x2" in outcome.out
    assert "not_accepted x1" in outcome.out


def test_command_line_with_odd_characters_is_one_line():
    """A process whose arguments hold newlines, escape codes and markup is printed without any of their effects."""
    evil = "\x1b[31mred\n[bold]:smile:\x07"
    code = (
        "import socket\n"
        + LEAK.format(count=1, host="127.0.0.1")
        + "print(listener.getsockname()[1], flush=True)\ninput()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, evil], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            wait_for(int(process.stdout.readline()), state=CLOSE_WAIT)
            text = run("report", "--pid", process.pid, "--min-age", 0).out
            (found,) = report(process.pid)["processes"]
        finally:
            process.kill()
    assert "\x1b" not in text + found["command"]
    assert "\n" not in found["command"]
    assert found["command"].endswith("?[31mred?[bold]:smile:?")
    assert "[bold]:smile:" in text


# Processes that come and go


def test_processes_that_vanish_during_the_look():
    """While processes start and end all the time, a look at all of them never fails and still finds the leak."""
    stop = threading.Event()

    def churn() -> None:
        while not stop.is_set():
            with subprocess.Popen(["true"]), subprocess.Popen(["sleep", "0"]):
                pass

    threads = [threading.Thread(target=churn) for _ in range(3)]
    with leaking() as child:
        for thread in threads:
            thread.start()
        try:
            for _ in range(8):
                found = report()
                assert child.pid in {leak["pid"] for leak in found["leaks"]}
        finally:
            stop.set()
            for thread in threads:
                thread.join()


@pytest.mark.skipif(not os.path.exists("/proc/2/stat") or os.geteuid() != 0, reason="no kernel threads to be seen here")
def test_kernel_thread():
    """A kernel thread has no command line and no descriptors; it is looked at like any process."""
    with open("/proc/2/stat", encoding="ascii") as file:
        name = file.read().split("(")[1].split(")")[0]
    (process,) = report(2)["processes"]
    assert (process["command"], process["fd_used"], process["states"]) == (f"[{name}]", 0, {})


# Without rights


@needs_root
def test_process_of_another_user():
    """Without rights on a process the answer is one clear line on stderr, and exit status 2."""
    with leaking() as child:
        outcome = run("report", "--pid", child.pid, "--min-age", 0, prefix=AS_NOBODY)
    assert (outcome.status, outcome.out, outcome.err.count("\n")) == (2, "", 1)
    assert f"process {child.pid}" in outcome.err
    assert "may not be read" in outcome.err
    assert "root" in outcome.err


@needs_root
def test_own_process_without_being_root():
    """The owner of a process sees all of it without any special right: leaks, owner, age and dead descriptors."""
    with leaking() as child:
        teach(child, DEAD)
        teach(child, BECOME_NOBODY)
        outcome = run("report", "--json", "--pid", child.pid, "--min-age", 0, prefix=AS_NOBODY)
    validate(outcome.json)
    assert outcome.status == 1
    found = {leak["cause"]: leak for leak in outcome.json["leaks"]}
    assert set(found) == {"unread", "dead_fd"}
    assert {leak["pid"] for leak in found.values()} == {child.pid}
    assert found["unread"]["age_is"] == "exact"


@needs_root
def test_all_processes_without_rights_keeps_the_rows_of_others():
    """Leaks of other users stay listed with owner unknown, in JSON as null, and stderr says what would show it."""
    with leaking() as others, leaking() as own:
        teach(own, BECOME_NOBODY)
        cookies = {"others": only_leak(others.pid)["cookie"], "own": only_leak(own.pid)["cookie"]}
        outcome = run("report", "--all", "--json", "--min-age", 0, prefix=AS_NOBODY)
        text = run("report", "--all", "--min-age", 0, prefix=AS_NOBODY)
    validate(outcome.json)
    by_cookie = {leak["cookie"]: leak for leak in outcome.json["leaks"]}
    others_leak = by_cookie[cookies["others"]]
    assert (others_leak["pid"], others_leak["fd"], others_leak["holders"]) == (None, None, [])
    assert others_leak["inode"] is not None
    assert by_cookie[cookies["own"]]["pid"] == own.pid
    assert outcome.status == text.status == 1
    assert "owner unknown (needs root or CAP_SYS_PTRACE)" in text.out
    assert "not seen: the descriptors of" in outcome.err


@needs_root
def test_listener_of_another_user_is_not_seen_either():
    """What waits at another user's listener is listed too, without an owner."""
    with start_child() as child:
        child.do("listener = socket.create_server(('127.0.0.1', 0))")
        port = int(child.ask("listener.getsockname()[1]"))
        socket.create_connection(("127.0.0.1", port)).close()
        wait_for(port, state=CLOSE_WAIT)
        leaks = run("report", "--all", "--json", "--min-age", 0, prefix=AS_NOBODY).json["leaks"]
    (leak,) = [leak for leak in leaks if leak["local"] == f"127.0.0.1:{port}"]
    assert (leak["pid"], leak["cause"]) == (None, "not_accepted")


# Without netlink

NO_NETLINK = refusing("netlink")
NO_AGES = refusing("netlink", "pidfd_getfd")


def test_netlink_refused():
    """Where a sandbox refuses netlink, the same leaks are found by /proc/net/tcp, aged by borrowing."""
    with leaking(3) as child:
        full = report(child.pid)["leaks"]
        outcome = run("report", "--json", "--pid", child.pid, "--min-age", 0, prefix=NO_NETLINK)
    validate(outcome.json)
    assert outcome.status == 1
    compared = ("pid", "fd", "inode", "cookie", "local", "remote", "recv_queue", "cause", "side", "age_is")
    found = {tuple(leak[key] for key in compared) for leak in outcome.json["leaks"]}
    assert found == {tuple(leak[key] for key in compared) for leak in full}
    assert len(found) == 3
    assert "sock_diag netlink is refused" in outcome.err


def test_netlink_refused_in_the_accept_queue():
    """What cannot be borrowed, as nobody accepted it, is listed without an age rather than left out."""
    with start_child() as child:
        child.do("listener = socket.create_server(('127.0.0.1', 0))")
        port = int(child.ask("listener.getsockname()[1]"))
        socket.create_connection(("127.0.0.1", port)).close()
        wait_for(port, state=CLOSE_WAIT)
        leak = only_leak(child.pid, prefix=NO_NETLINK)
    assert (leak["cause"], leak["pid"], leak["cookie"]) == ("not_accepted", child.pid, None)
    assert (leak["age_seconds"], leak["age_is"]) == (None, "unknown")


def test_no_age_to_be_had_makes_a_second_look():
    """Where the kernel tells no age at all, two looks --min-age apart tell who stood still, at least so long."""
    with leaking(2) as child:
        started = time.monotonic()
        outcome = run("report", "--json", "--pid", child.pid, "--min-age", 1.5, prefix=NO_AGES)
        assert time.monotonic() - started >= 1.5
    validate(outcome.json)
    assert outcome.status == 1
    assert "looking again in 1.5 s" in outcome.err
    for leak in outcome.json["leaks"]:
        assert (leak["cause"], leak["age_is"]) == ("unread", "at_least")
        assert leak["age_seconds"] >= 1.5


def test_no_age_to_be_had_and_no_wait():
    """With -w 0 they are listed at once, their age unknown, and the text shows a question mark."""
    with leaking() as child:
        leak = only_leak(child.pid, min_age=3600, options=["-w", "0"], prefix=NO_AGES)
        outcome = run("report", "--pid", child.pid, "-w", 0, prefix=NO_AGES)
    assert (leak["age_seconds"], leak["age_is"], leak["cookie"]) == (None, "unknown", None)
    row = next(line for line in outcome.out.splitlines() if leak["remote"] in line)
    assert row.split()[0] == "?"


def test_no_age_to_be_had_and_progress():
    """The two looks leave out what moves between them."""
    with start_child() as child:
        child.do("import threading, time; listener = socket.create_server(('127.0.0.1', 0))")
        port = int(child.ask("listener.getsockname()[1]"))
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(bytes(60_000))
        child.do("server, _ = listener.accept()")
        wait_for(port, state=CLOSE_WAIT, recv_queue=60_001)
        teach(
            child,
            """
            def sip():
                while server.recv(20):
                    time.sleep(0.05)
            threading.Thread(target=sip, daemon=True).start()
            """,
        )
        outcome = run("report", "--json", "--pid", child.pid, "--min-age", 5, prefix=NO_AGES)
        assert rows(port)
    assert (outcome.json["leaks"], outcome.status) == ([], 0)


def test_descriptors_that_cannot_be_lent():
    """Without pidfd_getfd nobody can tell whether an unlisted descriptor is dead, and the report says so."""
    with leaking() as child:
        teach(child, DEAD)
        outcome = run("report", "--json", "--pid", child.pid, "--min-age", 0, prefix=refusing("pidfd_getfd"))
    assert [leak["cause"] for leak in outcome.json["leaks"]] == ["unread"]
    assert [unseen["pid"] for unseen in outcome.json["unseen"]] == [child.pid]
    assert f"not seen: whether 1 TCP descriptors of process {child.pid}" in outcome.err
