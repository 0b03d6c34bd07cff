"""What does the guard keep for each connection? Memory of servers with quiet connections, guarded against bare.

Three things would be measured with it, and are kept out.

- *The burst.* A client that only connects is faster than a server that shares its CPU. Then asyncio takes a thousand
  connections in one turn, with a task for each, and what these leave behind is more than what the guard keeps, and
  another size in each process: bare against bare differed by 200 bytes a connection. So each connection is answered
  before the next one comes. Bare against bare then differs by nothing.
- *The step.* A dict doubles at two thirds of a power of two, so of 11,000 connections each entry takes twice what it
  takes of 10,900. The number is between two such steps, where the tables are as full as they are on average.
- *The moment.* A time limit has the guard look at each connection after an eighth of it, and from then on it keeps
  what it has seen. So the limit is short enough for all to have been looked at, and long enough for none to be ended.
"""

import contextlib
import re
import statistics
import time
from pathlib import Path

from crowd import crowd
from harness import Bar, Section
from ratios import Options, finish, options
from sides import BARE, GUARDED, guarded_unless, serving

from sockguard._core.decide import LOOKS_PER_TIMEOUT

KINDS = {
    "asyncio streams": "echo_streams.py",
    "asyncio protocol": "echo_protocol.py",
    "uvloop streams": "echo_uvloop.py",
    "selectors": "echo_selectors.py",
}
LIMIT = 600
N_CONNECTIONS = 8_000
"""Dicts double at 5,462 and at 10,923 entries."""
N_ROUNDS = 3
IDLE_TIMEOUT = 64.0
SETTLE = IDLE_TIMEOUT / LOOKS_PER_TIMEOUT + 1.0
"""Seconds in which the guard has looked at all connections."""
PRIVATE = re.compile(r"^Private_\w+: +(\d+) kB$", re.MULTILINE)

Bytes = dict[str, tuple[int, float]]
"""Side -> bytes of the process without connections, and for each connection."""


def private_bytes(pid: int) -> int:
    """Tells the memory that is a process's own, in bytes: its USS. proc(5), smaps_rollup."""
    return sum(map(int, PRIVATE.findall(Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")))) * 1024


def one_round(script: str, asked: Options, number: int) -> Bytes:
    """Measures both sides with fresh servers, at the same time."""
    sides = [BARE, guarded_unless(against_itself=asked.against_itself, timeout=IDLE_TIMEOUT)]
    with contextlib.ExitStack() as stack:
        started = {side: stack.enter_context(serving(side, script)) for side in (sides if number % 2 else sides[::-1])}
        time.sleep(0.5)
        empty = {side.name: private_bytes(started[side].pid) for side in sides}
        for server in started.values():
            stack.enter_context(crowd(server.address, N_CONNECTIONS, greets=True))
        time.sleep(SETTLE)
        full = {side.name: private_bytes(started[side].pid) for side in sides}
    return {name: (empty[name], (full[name] - empty[name]) / N_CONNECTIONS) for name in empty}


def section_of(asked: Options) -> Section:
    """Measures all kinds."""
    rows: list[list[str | float]] = []
    bars = []
    n_rounds = asked.pick(N_ROUNDS, 1)
    for kind, script in KINDS.items():
        rounds = [one_round(script, asked, number) for number in range(n_rounds)]
        at_start = statistics.median(each[GUARDED][0] - each[BARE.name][0] for each in rounds) / 2**20
        bare, guarded = (statistics.median(each[name][1] for each in rounds) for name in (BARE.name, GUARDED))
        more = [each[GUARDED][1] - each[BARE.name][1] for each in rounds]
        middle = statistics.median(more)
        rows.append([kind, bare, guarded, middle, min(more), max(more), at_start])
        promise = f"{kind}: at most {LIMIT} bytes for each connection"
        bars.append(Bar(promise, middle, min(more), max(more), " bytes", middle <= LIMIT))
    notes = [
        f"Medians of {n_rounds} rounds. Private memory (USS) with {N_CONNECTIONS:,} quiet connections and without any.",
        "The guard has a time limit for them and has looked at each; without a limit it never does, and keeps less.",
        "The kernel's memory is not in it: the guard's epoll set takes about 200 bytes there for each connection.",
        "The intervals of the bars are the least and the most of the rounds.",
    ]
    columns = ["bytes for each connection", "bare", "guarded", "more", "least", "most", "more without any, MiB"]
    return Section("Memory", notes, columns, rows, bars)


def main() -> None:
    """Measures all, prints it and writes results/guard_memory.json."""
    asked = options()
    finish("guard_memory", [section_of(asked)], asked, ["uvloop"])


if __name__ == "__main__":
    main()
