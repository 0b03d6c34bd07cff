"""Does the guard add a system call to a message? Counted by strace, thread by thread.

The guard has a thread of its own, which is there before the first connection comes. All calls of
other threads are the server's. Connections are made before counting begins, and messages are sent
one at a time, so that each takes the same way, and their calls can be told apart.
"""

import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from harness import Bar, Section
from load import connections, ping_pong
from ratios import Options, finish, options
from sides import BARE, Server, Side, guarded_unless, serving

KINDS = {
    "asyncio streams": "echo_streams.py",
    "asyncio protocol": "echo_protocol.py",
    "uvloop streams": "echo_uvloop.py",
    "threads": "echo_threads.py",
    "selectors": "echo_selectors.py",
}
FAMILIES = {
    "recv": {"recvfrom", "recvmsg", "read", "readv"},
    "send": {"sendto", "sendmsg", "write", "writev"},
    "epoll": {"epoll_wait", "epoll_pwait", "epoll_pwait2", "epoll_ctl", "select", "poll", "ppoll"},
}
N_CONNECTIONS = 20
N_MESSAGES = 2000
SETTLE = 0.3
"""Seconds before and after counting, in which strace gets hold of the threads, and they come to rest."""
CALL = re.compile(r"^(?:(\d+) +)?(\d+\.\d+) (\w+)\((\d*)")
"""A line of `strace -f -ttt`: thread, instant, name, and the first argument if it is a number, as descriptors are. The
end of a call that another thread interrupted in the log ("resumed") is not counted again."""


class Call(NamedTuple):
    """One system call."""

    tid: int
    family: str
    fd: int


def log_of(server: Server, socks: Sequence[socket.socket]) -> list[Call]:
    """Lets strace follow a server while messages are sent, one at a time; gives the calls."""
    with tempfile.NamedTemporaryFile(prefix="bench-strace-") as log:
        command = ["strace", "-f", "-ttt", "-s", "0", "-o", log.name, "-p", str(server.pid)]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as tracer:
            try:
                assert tracer.stderr
                assert "attached" in (said := tracer.stderr.readline()), said
                time.sleep(SETTLE)
                began = time.time()
                for number in range(N_MESSAGES):
                    ping_pong(socks[number % len(socks) :][:1], b"x" * 64, 0)
                ended = time.time()
                time.sleep(SETTLE)
            finally:
                tracer.terminate()
        lines = [line for line in map(CALL.match, Path(log.name).read_text("utf-8").splitlines()) if line]
    within = [line for line in lines if began <= float(line[2]) <= ended + SETTLE / 2]
    return [Call(int(line[1] or server.pid), family(line[3]), int(line[4] or -1)) for line in within]


def family(name: str) -> str:
    """Sorts a call."""
    return next((kind for kind, names in FAMILIES.items() if name in names), "other")


def descriptors(server: Server) -> set[int]:
    """Lists the descriptors of a server."""
    return {int(fd) for fd in os.listdir(f"/proc/{server.pid}/fd")}


class Count(NamedTuple):
    """What was counted for a server."""

    usual: dict[str, int]
    """Family -> calls from the receiving of a message up to the next, as most messages have them."""
    n_unusual: int
    """Messages that have others."""
    n_of_guard: int
    """Calls of the guard's thread."""


def count(side: Side, script: str) -> Count:
    """Counts the calls of a server's threads, message by message."""
    with serving(side, script) as server:
        of_guard = server.threads()  # nobody has called yet, so a second thread is not the server's
        before = descriptors(server)
        with connections(server.address, N_CONNECTIONS) as socks:
            time.sleep(SETTLE)
            ours = descriptors(server) - before
            calls = log_of(server, socks)
    messages = list(by_message([call for call in calls if call.tid not in of_guard], ours))
    assert len(messages) >= N_MESSAGES - N_CONNECTIONS, "not all messages are in the log"
    usual, n_usual = Counter(messages).most_common(1)[0]
    n_of_guard = sum(call.tid in of_guard for call in calls)
    return Count(dict(zip(FAMILIES, usual, strict=True)), len(messages) - n_usual, n_of_guard)


def by_message(calls: Sequence[Call], ours: set[int]) -> Iterator[tuple[int, ...]]:
    """Counts the calls of each thread from one recv on a connection up to the next, for all families."""
    current: dict[int, Counter[str]] = {}
    for call in calls:
        if call.family == "recv" and call.fd in ours:
            if call.tid in current:
                yield tuple(current[call.tid][name] for name in FAMILIES)
            current[call.tid] = Counter()
        if call.tid in current:
            current[call.tid][call.family] += 1


def section_of(asked: Options) -> Section:
    """Counts for all kinds and both sides."""
    sides = (BARE, guarded_unless(against_itself=asked.against_itself))
    counts = {(kind, side.name): count(side, script) for kind, script in KINDS.items() for side in sides}
    rows: list[list[str | float]] = [
        [f"{kind}, {name}", *result.usual.values(), result.n_unusual, result.n_of_guard]
        for (kind, name), result in counts.items()
    ]
    bars = [bar_of(kind, *(counts[kind, side.name] for side in sides)) for kind in KINDS]
    notes = [
        f"{N_MESSAGES:,} messages of 64 B, one at a time, over {N_CONNECTIONS} connections.",
        "Counted by `strace -f -ttt` in each thread but the guard's, from one recv on a connection up to the next.",
        "What most messages have must be equal. The others had a timer of the server's own or a wake-up in between:",
        "the guard asks each event loop once a second for a sign of life, which is a wake-up of the loop.",
        "The guard's thread is there before the first connection; the last column is the number of all its calls.",
    ]
    columns = ["calls for each message", *FAMILIES, "messages with others", "calls of the guard's thread"]
    return Section("System calls", notes, columns, rows, bars)


def bar_of(kind: str, bare: Count, guarded: Count) -> Bar:
    """Judges whether a message takes the same calls."""
    more = max((guarded.usual[name] - bare.usual[name] for name in FAMILIES), key=abs)
    return Bar(f"{kind}: recv, send and epoll for a message exactly as often", more, more, more, " more", more == 0)


def main() -> None:
    """Counts, prints it and writes results/guard_syscalls.json."""
    asked = options()
    if not shutil.which("strace"):
        print("SKIPPED: strace is not here (apt-get install strace)")
        return
    finish("guard_syscalls", [section_of(asked)], asked, ["uvloop"])


if __name__ == "__main__":
    main()
