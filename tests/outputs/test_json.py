"""The JSON of a report: what json.dumps takes, what the schema promises, and what each null means."""

import json
from collections.abc import Collection

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from commands import validate
from sockguard._core.facts import Address, Holder, ProcessFacts, Snapshot, SocketFacts, TcpInfo, Unseen
from sockguard._core.inference import Age, AgeKind, Side
from sockguard._core.leaks import Cause, Leak, Stall, find_leaks
from sockguard.outputs.json import leak_as_dict, report_as_dict, timestamp
from strategies import PIDS, snapshots

ESTABLISHED, CLOSE, CLOSE_WAIT, LISTEN = 1, 7, 8, 10
SERVED, REMOTE = Address("127.0.0.1", 80), Address("::1", 50000)
QUIET = TcpInfo(CLOSE_WAIT, 0, 0, 0, 0, 60.0, 30.0, 30.25, 0.001, 0, 1, 1, 1, 0, 0, 0)
FACTS = SocketFacts(CLOSE_WAIT, SERVED, REMOTE, 100, 8202, 1000, 6, 4, 0, 0, 7, QUIET)
LISTENER = SocketFacts(LISTEN, SERVED, Address("0.0.0.0", 0), 50, 5, 1000, 3, 8, 0, 0, 7, QUIET)
HOLDERS = (Holder(5, 3, "python3 server.py"), Holder(6, 4, "python3 server.py"))
LEAK = Leak(FACTS, Cause.UNREAD, Side.SERVER, Age(30.25, AgeKind.EXACT), HOLDERS[0], HOLDERS, (LISTENER,))
PROCESS = ProcessFacts(5, 1, 1000, "python3 server.py", 4711, 7, 12, 1024, {50: (2,), 100: (3,), 101: (9,)})
INSIDE = "created_at held_by waits_at stalled ended_because".split()
"""What only code inside the process knows."""
EMPTY = Snapshot(0.0, (), {}, {}, {})


def as_json(snapshot: Snapshot, leaks: Collection[Leak]) -> dict:
    """Gives the report as whoever reads it gets it, held to the schema."""
    found = json.loads(json.dumps(report_as_dict(snapshot, leaks), allow_nan=False))
    validate(found)
    return found


def leak_json(leak: Leak) -> dict:
    """Gives one leak likewise."""
    (found,) = as_json(EMPTY, [leak])["leaks"]
    return found


def test_leak_is_told_under_the_promised_names() -> None:
    """Every key, with a value of its own, so that no two can be mixed up."""
    assert leak_json(LEAK) == {
        "pid": 5,
        "fd": 3,
        "inode": 100,
        "cookie": 8202,
        "state": "CLOSE_WAIT",
        "local": "127.0.0.1:80",
        "remote": "[::1]:50000",
        "side": "server",
        "age_seconds": 30.25,
        "age_is": "exact",
        "recv_queue": 6,
        "send_queue": 4,
        "cause": "unread",
        "remedy": LEAK.remedy,
        "holders": [
            {"pid": 5, "fd": 3, "command": "python3 server.py"},
            {"pid": 6, "fd": 4, "command": "python3 server.py"},
        ],
        "uid": 1000,
        "netns": 7,
        "created_at": None,
        "held_by": None,
        "waits_at": None,
        "stalled": None,
        "ended_because": None,
    }


def test_process_is_told_with_its_sockets_by_state() -> None:
    """Sockets are counted by state; one that no table lists is not guessed at."""
    more = FACTS._replace(inode=101, state=ESTABLISHED), FACTS._replace(inode=102)
    sockets = {50: (2, 8), 100: (3, 4), 101: (9,), 102: (5,), 999: (7,)}
    snapshot = EMPTY._replace(sockets=(FACTS, LISTENER, *more), processes={5: PROCESS._replace(sockets=sockets)})
    (process,) = as_json(snapshot, [])["processes"]
    assert process == {
        "pid": 5,
        "command": "python3 server.py",
        "uid": 1000,
        "netns": 7,
        "fd_used": 12,
        "fd_limit": 1024,
        "states": {"CLOSE_WAIT": 2, "LISTEN": 1, "ESTABLISHED": 1},
        "listeners": [{"local": "127.0.0.1:80", "fd": 2, "queued": 3, "backlog": 8, "queued_close_wait": 0}],
    }


def test_dead_part_of_a_queue_is_told_with_the_listener() -> None:
    """Of three that wait, two have hung up; a listener of another process is not this one's."""
    waiting = [FACTS._replace(inode=0, cookie=cookie, remote=Address("::1", cookie)) for cookie in (1, 2)]
    foreign = LISTENER._replace(inode=51, local=Address("127.0.0.1", 81))
    snapshot = EMPTY._replace(sockets=(LISTENER, foreign, *waiting), processes={5: PROCESS})
    (listener,) = as_json(snapshot, [])["processes"][0]["listeners"]
    assert (listener["local"], listener["queued"], listener["queued_close_wait"]) == ("127.0.0.1:80", 3, 2)


def test_unseen_is_told_with_its_remedy() -> None:
    """Whether it was fatal is a matter of the exit status."""
    unseen = Unseen(5, "process 5: gone", "check the pid", fatal=True), Unseen(None, "ages", "run it as root")
    assert as_json(EMPTY._replace(unseen=unseen), [])["unseen"] == [
        {"pid": 5, "what": "process 5: gone", "remedy": "check the pid"},
        {"pid": None, "what": "ages", "remedy": "run it as root"},
    ]


def test_empty_report_is_whole() -> None:
    """Nothing looked at, nothing found: all lists are there, and empty."""
    expected = {"schema": 1, "at": "1970-01-01T00:00:00Z", "processes": [], "leaks": [], "unseen": []}
    assert as_json(EMPTY, []) == expected


# What null means


@pytest.mark.parametrize(
    ("leak", "nulls"),
    [
        pytest.param(LEAK, set(), id="nothing is missing"),
        pytest.param(
            LEAK._replace(connection=FACTS._replace(inode=0), cause=Cause.NOT_ACCEPTED, holders=()),
            {"fd", "inode"},
            id="never accepted",
        ),
        pytest.param(LEAK._replace(owner=None, holders=()), {"pid", "fd"}, id="no process is known"),
        pytest.param(LEAK._replace(connection=FACTS._replace(cookie=None)), {"cookie"}, id="read from /proc/net/tcp"),
        pytest.param(
            LEAK._replace(connection=FACTS._replace(state=CLOSE, remote=None), cause=Cause.DEAD_FD),
            {"remote"},
            id="the kernel has forgotten the peer",
        ),
        pytest.param(LEAK._replace(age=Age(None, AgeKind.UNKNOWN)), {"age_seconds"}, id="the kernel tells no age"),
    ],
)
def test_null_is_what_is_not_known(leak: Leak, nulls: set[str]) -> None:
    """Each null has its one meaning; nothing else turns null beside it."""
    found = leak_json(leak)
    assert {key for key, value in found.items() if value is None} == nulls | set(INSIDE)


def test_null_of_a_process_is_what_may_not_be_seen() -> None:
    """Its descriptors, its limit (or it has none), and the backlog where only text was read."""
    process = PROCESS._replace(fd_used=None, fd_limit=None, sockets={50: (2,)})
    snapshot = EMPTY._replace(sockets=(LISTENER._replace(cookie=None, send_queue=0),), processes={5: process})
    (found,) = as_json(snapshot, [])["processes"]
    assert (found["fd_used"], found["fd_limit"], found["listeners"][0]["backlog"]) == (None, None, None)


def test_zero_is_not_null() -> None:
    """Descriptor 0, age 0 and empty queues are numbers."""
    zero = LEAK._replace(
        connection=FACTS._replace(recv_queue=0, send_queue=0, uid=0, netns=0),
        age=Age(0.0, AgeKind.EXACT),
        owner=Holder(5, 0, "inetd"),
    )
    found = leak_json(zero)
    assert [found[key] for key in "fd age_seconds recv_queue send_queue uid netns".split()] == [0, 0, 0, 0, 0, 0]


def test_what_code_inside_the_process_knows_is_told() -> None:
    """Where it was opened and who refers to it are lists of lines, where they are known."""
    leak = LEAK._replace(created_at=("server.py:7 in handle", "server.py:20 in main"), held_by=("list of 3",))
    stall = Stall(2.5, ("server.py:9 in work",))
    found = leak_json(leak._replace(waits_at="handle() waits", stalled=stall, ended_because="idle_timeout"))
    assert found["created_at"] == ["server.py:7 in handle", "server.py:20 in main"]
    assert found["held_by"] == ["list of 3"]
    assert found["stalled"] == {"seconds": 2.5, "where": ["server.py:9 in work"]}
    assert (found["waits_at"], found["ended_because"]) == ("handle() waits", "idle_timeout")


# Time


@pytest.mark.parametrize(
    ("at", "text"),
    [
        (0.0, "1970-01-01T00:00:00Z"),
        (981173106.0, "2001-02-03T04:05:06Z"),
        (981173106.999, "2001-02-03T04:05:06Z"),
        (2**31, "2038-01-19T03:14:08Z"),
    ],
)
def test_time_is_utc_in_whole_seconds(at: float, text: str) -> None:
    """ISO 8601 with a Z, to the second that has begun."""
    assert timestamp(at) == text
    assert as_json(EMPTY._replace(at=at), [])["at"] == text


def test_time_does_not_depend_on_where_the_host_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    """The zone of the host is not mixed in."""
    import time  # noqa: PLC0415 - for tzset alone

    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Asia/Kolkata")
        time.tzset()
        assert timestamp(0.0) == "1970-01-01T00:00:00Z"
    time.tzset()


# The schema, on whatever may come


@st.composite
def reports(draw: st.DrawFn) -> Snapshot:
    """Makes snapshots as the kernel room makes them: holders follow from processes, and cookies are not 0.

    What is dead is known by its descriptor alone, so it has an inode.
    """
    made = draw(snapshots())
    sockets = tuple(
        facts._replace(cookie=None if facts.cookie is None else draw(st.sampled_from([None, facts.cookie + 1])))
        for facts in made.sockets
        if facts.inode or facts.state != CLOSE
    )
    by_pid: dict[int, dict[int, list[int]]] = {}
    for inode, holders in made.holders.items():
        for holder in holders:
            by_pid.setdefault(holder.pid, {}).setdefault(inode, []).append(holder.fd)
    limits = st.none() | st.integers(0, 2**31)
    processes = {
        pid: ProcessFacts(
            pid, 1, draw(st.integers(0, 2**32 - 1)), draw(st.text(min_size=1)), 4711, draw(st.sampled_from([0, 7])),
            draw(limits), draw(limits), {inode: tuple(fds) for inode, fds in by_pid.get(pid, {}).items()},
        )
        for pid in sorted({*by_pid, *draw(st.sets(PIDS, max_size=3))})
    }  # fmt: skip
    unseen = st.builds(Unseen, st.none() | PIDS, st.text(min_size=1), st.text(min_size=1), st.booleans())
    return made._replace(
        at=draw(st.floats(0, 4e9)), sockets=sockets, processes=processes, unseen=tuple(draw(st.lists(unseen)))
    )


@pytest.mark.slow
@given(reports(), st.sampled_from([0.0, 10.0]), st.none() | st.sets(PIDS))
def test_every_report_keeps_the_promise(snapshot: Snapshot, min_age: float, pids: set[int] | None) -> None:
    """Whatever was found can be written as JSON, keeps to the schema, and loses no process and no leak."""
    leaks = find_leaks(snapshot, min_age=min_age, pids=pids)
    found = as_json(snapshot, leaks)
    assert [process["pid"] for process in found["processes"]] == list(snapshot.processes)
    assert [leak["cause"] for leak in found["leaks"]] == [leak.cause for leak in leaks]
    assert len(found["unseen"]) == len(snapshot.unseen)
    for process in found["processes"]:
        known = {facts.inode for facts in snapshot.sockets} & set(snapshot.processes[process["pid"]].sockets)
        assert sum(process["states"].values()) == len(known)
        assert len(process["listeners"]) == process["states"].get("LISTEN", 0)


@pytest.mark.parametrize(
    "leak",
    [
        pytest.param(LEAK._replace(age=Age(None, AgeKind.EXACT)), id="exact, but none"),
        pytest.param(LEAK._replace(age=Age(1.0, AgeKind.UNKNOWN)), id="unknown, but one"),
        pytest.param(LEAK._replace(cause=Cause.NOT_ACCEPTED), id="not accepted, but held"),
        pytest.param(LEAK._replace(connection=FACTS._replace(state=ESTABLISHED)), id="alive"),
        pytest.param(LEAK._replace(connection=FACTS._replace(cookie=0)), id="no cookie of a kernel's"),
    ],
)
def test_schema_refuses_what_makes_no_sense(leak: Leak) -> None:
    """The control for all of the above: a leak that contradicts itself does not validate."""
    found = json.loads(json.dumps(leak_as_dict(leak)))
    with pytest.raises(jsonschema.ValidationError):
        validate({"schema": 1, "at": "1970-01-01T00:00:00Z", "processes": [], "leaks": [found], "unseen": []})
