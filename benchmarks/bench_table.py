"""Who leaks, and which sockets are there: sockguard beside psutil, pyroute2, ss and lsof.

8,000 TCP sockets in one process, 200 of them in CLOSE_WAIT.
"""

import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from typing import Any

import psutil
from harness import (
    Contender,
    Section,
    at_least_faster,
    at_most_more,
    compiled,
    measure,
    rounds_wanted,
    save,
    timing_section,
)
from populations import child_population, hold
from pyroute2 import DiagSocket

import sockguard
from sockguard._core.facts import SocketFacts, TcpState
from sockguard._kernel.inet_diag import ALL_STATES, open_diag, read_sockets
from sockguard._kernel.linux import look_at_processes
from sockguard._kernel.own_fds import read_all_sockets

N_SOCKETS, N_SICK = 8000, 200
ROUNDS, COMMAND_ROUNDS = 21, 11
FAMILIES = (2, 10)
"""AF_INET and AF_INET6."""
CLOSE_WAIT = int(TcpState.CLOSE_WAIT)
INFO_WANTED = 1 << 1
"""Bit of INET_DIAG_INFO in the request."""
FIND_LEAKS, PSUTIL = "sockguard.find_leaks", "psutil, this process"
PYROUTE_ROWS, PYROUTE_INFOS = "pyroute2, rows", "pyroute2, rows and TCP_INFO"
PYROUTE_OWNED = "pyroute2, TCP_INFO and owners"
LEAK_CHECK_NOTES = (
    "The same work: `sockguard, rows` and `pyroute2, rows`; the same two with TCP_INFO.",
    "Nearly the same: `sockguard.find_leaks` and `pyroute2, TCP_INFO and owners`; find_leaks also names causes.",
    "Not the same: psutil tells no ages, and the first two of pyroute2 not whose the sockets are.",
    "pyroute2 gets a socket opened beforehand, find_leaks opens its own. Both ask for IPv4 and IPv6.",
    "`called again at once`: the second of two calls in a row. A program looks now and then: the first row counts.",
)
STATE_NAMES = {int(state): state.name for state in TcpState}

Rows = list[tuple[str, tuple[str, int], tuple[str, int] | tuple[()], int, int]]
"""State, local and remote address (empty for a listener), pid, fd."""


def expect(count: int) -> Callable[[Collection[object]], None]:
    """Makes a check that a result has exactly so many items."""

    def check(result: Collection[object]) -> None:
        assert len(result) == count, f"{len(result)} instead of {count}"

    return check


def compare_leak_checks(n_rounds: int) -> Section:
    """Measures how long it takes to learn which sockets of this very process are in CLOSE_WAIT."""
    with hold(N_SOCKETS, N_SICK) as people, DiagSocket() as pyroute, open_diag() as diag:
        pyroute.bind()
        sick = {os.fstat(sock.fileno()).st_ino for sock in people.sick}
        me = psutil.Process()

        def has_the_sick(inodes: Iterable[int]) -> None:
            assert sick <= set(inodes)

        contenders = [
            Contender(FIND_LEAKS, find_leaks, expect(N_SICK)),
            Contender(f"{FIND_LEAKS}, called again at once", find_leaks, expect(N_SICK), before=find_leaks),
            Contender(PSUTIL, lambda: in_close_wait(me.net_connections()), expect(N_SICK)),
            Contender(
                "psutil, all processes",
                lambda: in_close_wait(psutil.net_connections()),
                lambda rows: expect(N_SICK)([row for row in rows if row.pid == os.getpid()]),
            ),
            Contender(
                "sockguard, rows",
                lambda: read_sockets(diag, [CLOSE_WAIT]),
                lambda rows: has_the_sick(row.inode for row in rows),
            ),
            Contender(
                PYROUTE_ROWS,
                lambda: pyroute_rows(pyroute),
                lambda rows: has_the_sick(row["idiag_inode"] for row in rows),
            ),
            Contender(
                "sockguard, rows and TCP_INFO",
                lambda: read_sockets(diag, [CLOSE_WAIT], with_info=True),
                lambda rows: has_the_sick(row.inode for row in rows if row.info),
            ),
            Contender(
                PYROUTE_INFOS,
                lambda: pyroute_infos(pyroute),
                lambda rows: has_the_sick(inode for inode, _ in rows),
            ),
            Contender(PYROUTE_OWNED, lambda: pyroute_owned(pyroute), expect(N_SICK)),
        ]
        times = measure(contenders, n_rounds)
    bars = [
        at_least_faster(times, FIND_LEAKS, PSUTIL, 50),
        *(at_least_faster(times, FIND_LEAKS, name, 10) for name in (PYROUTE_OWNED, PYROUTE_INFOS, PYROUTE_ROWS)),
    ]
    return timing_section("Leaks of one's own process", LEAK_CHECK_NOTES, times, FIND_LEAKS, bars)


def find_leaks() -> list[sockguard.Leak]:
    """Finds all leaks of this process, however young."""
    return sockguard.find_leaks(min_age=0)


def pyroute_rows(diag: DiagSocket, extensions: int = 0) -> list[Any]:
    """Lists the sockets in CLOSE_WAIT by pyroute2."""
    return [
        row
        for family in FAMILIES
        for row in diag.get_sock_stats(family=family, states=1 << CLOSE_WAIT, extensions=extensions)
    ]


def pyroute_infos(diag: DiagSocket) -> list[tuple[int, float]]:
    """Lists inode and age of the sockets in CLOSE_WAIT by pyroute2."""
    rows = pyroute_rows(diag, INFO_WANTED)
    return [(row["idiag_inode"], row.get_attr("INET_DIAG_INFO")["tcpi_last_ack_recv"]) for row in rows]


def pyroute_owned(diag: DiagSocket) -> list[tuple[int, int, float]]:
    """Lists descriptor, inode and age of this process's sockets in CLOSE_WAIT by pyroute2."""
    owners = own_sockets()
    return [(owners[inode], inode, age) for inode, age in pyroute_infos(diag) if inode in owners]


def own_sockets() -> dict[int, int]:
    """Finds the sockets of this process as a user of pyroute2 would have to: inode -> fd."""
    owners = {}
    for fd in map(int, os.listdir("/proc/self/fd")):
        try:
            status = os.fstat(fd)
        except OSError:
            continue
        if stat.S_ISSOCK(status.st_mode):
            owners[status.st_ino] = fd
    return owners


def in_close_wait(rows: list[Any]) -> list[Any]:
    """Keeps psutil's rows in CLOSE_WAIT."""
    return [row for row in rows if row.status == psutil.CONN_CLOSE_WAIT]


def compare_commands(n_rounds: int) -> Section:
    """Measures whole processes, start-up included, that tell of another process's sockets."""
    with child_population(N_SOCKETS, N_SICK) as pid, compiled() as environment:
        report = [sys.executable, "-m", "sockguard", "report", "--pid", str(pid), "--min-age", "0"]
        commands = {
            "sockguard report": report,
            "sockguard report --json": [*report, "--json"],
            "ss -tanp": ["ss", "-tanp"],
            "lsof -nP -a -iTCP -p PID": ["lsof", "-nP", "-a", "-iTCP", "-p", str(pid)],
            "lsof -nP -iTCP": ["lsof", "-nP", "-iTCP"],
        }
        missing = [name for name, command in commands.items() if not shutil.which(command[0])]
        contenders = [
            Contender(name, partial(output_of, command, environment), COMMAND_CHECKS.get(name, holds_all_sockets))
            for name, command in commands.items()
            if name not in missing
        ]
        times = measure(contenders, n_rounds)
    bars = [at_most_more(times, ours, "ss -tanp", 150) for ours in COMMAND_CHECKS if "ss -tanp" not in missing]
    return timing_section(
        "Leaks of another process, by command",
        [
            (
                "`sockguard report --pid PID --min-age 0`: Python's start included, with compiled files in place. "
                "It lists the leaks with age and cause."
            ),
            "`ss` and `lsof` list all sockets with owners, and leave the search for the sick ones to the reader.",
            *(f"{name}: not installed, not measured." for name in missing),
        ],
        times,
        "sockguard report",
        bars,
    )


def output_of(command: list[str], environment: dict[str, str]) -> str:
    """Runs a command and returns what it prints; 1 is the status of `report` when there are leaks."""
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    assert done.returncode in (0, 1), done.stderr
    return done.stdout


def holds_all_sockets(text: str) -> None:
    """Checks that the sockets were listed."""
    assert len(text.splitlines()) >= N_SOCKETS


def _report_is_right(text: str) -> None:
    assert f"{N_SICK} " in text, text[:200]


def _json_is_right(text: str) -> None:
    expect(N_SICK)(json.loads(text)["leaks"])


COMMAND_CHECKS = {"sockguard report": _report_is_right, "sockguard report --json": _json_is_right}


def compare_tables(pid: int, title: str, n_rounds: int) -> Section:
    """Measures full tables: state, addresses, pid and fd of every TCP socket of a process."""
    process = psutil.Process(pid)
    expected = sorted(full_table(pid))
    assert len(expected) > N_SOCKETS

    def check(rows: Rows) -> None:
        assert sorted(rows) == expected, set(rows) ^ set(expected)

    names = ("sockguard", "psutil, this process only", "psutil, all processes")
    own = "sockguard, own descriptors"
    times = measure(
        [
            Contender(names[0], lambda: full_table(pid), check),
            *([Contender(own, own_table, check)] if pid == os.getpid() else []),
            Contender(names[1], lambda: [_row(row, pid) for row in process.net_connections("tcp")], check),
            Contender(
                names[2],
                lambda: [_row(row, pid) for row in psutil.net_connections("tcp") if row.pid == pid],
                check,
            ),
        ],
        n_rounds,
    )
    return timing_section(
        title,
        ["All return the same rows, which is checked in each round: state, both addresses, pid, fd."],
        times,
        names[0],
        [at_least_faster(times, ours, name, 5) for ours in (names[0], own) if ours in times for name in names[1:]],
    )


def full_table(pid: int) -> Rows:
    """Lists the TCP sockets of a process by sockguard."""
    snapshot = look_at_processes([pid], find_owners=False)
    return _joined(snapshot.sockets, snapshot.processes[pid].sockets, pid)


def own_table() -> Rows:
    """Lists the TCP sockets of this process by the two doors that are open to it alone."""
    with open_diag() as diag:
        return _joined(read_sockets(diag, ALL_STATES), read_all_sockets(), os.getpid())


def _joined(sockets: Iterable[SocketFacts], fds: Mapping[int, Iterable[int]], pid: int) -> Rows:
    return [
        (STATE_NAMES[s.state], s.local, s.remote if s.remote and s.remote.port else (), pid, fd)
        for s in sockets
        for fd in fds.get(s.inode, ())
    ]


def _row(row: Any, pid: int) -> tuple[object, ...]:  # noqa: ANN401 - psutil has no types
    return (row.status, row.laddr, row.raddr, pid, row.fd)


def main() -> None:
    """Measures all, prints it and writes results/table.json."""
    n_rounds = rounds_wanted(ROUNDS)
    sections = [compare_leak_checks(n_rounds), compare_commands(min(n_rounds, COMMAND_ROUNDS))]
    with hold(N_SOCKETS, N_SICK):
        sections.append(compare_tables(os.getpid(), "Full table of one's own process", n_rounds))
    with child_population(N_SOCKETS, N_SICK) as pid:
        sections.append(compare_tables(pid, "Full table of another process", n_rounds))
    save("table", sections)


if __name__ == "__main__":
    main()
