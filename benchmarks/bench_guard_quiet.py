"""What does the guard cost while nothing happens? CPU time of its thread, with many quiet connections.

A quiet connection costs the guard one look per timeout. As that is 300 s here, and we look for half a minute,
another measurement shows what these looks cost: connections that speak now and then under a short timeout.
"""

import contextlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from crowd import crowd
from harness import Bar, Section
from ratios import Options, finish, options
from sides import BARE, Server, guarded_unless, serving

SCRIPT = "echo_selectors.py"
PER_PROCESS = 10_000
"""A process may have 20,000 descriptors here."""
N_PROCESSES = 5
WINDOW = 30.0
SETTLE = 3.0
TIMEOUT = 6.0
EVERY = 4.0
"""A connection speaks so often (s) where the timeout is TIMEOUT: none is ever idle, but each timer fires, once for
each time it speaks: it finds that this was TIMEOUT - EVERY seconds ago, and comes again EVERY seconds later."""
LIMIT = 0.5
LINEAR = 1.5
"""Five times the connections may take five times the CPU time, times this: noise, and the walk through a table
that all processes of a host share."""


class Used(NamedTuple):
    """What the guards of some processes did in a second, and their processes beyond the bare ones."""

    thread_ms: float
    """CPU time of the guards' threads."""
    more_ms: float
    """CPU time of the guarded processes less that of as many bare ones."""
    wakes: float
    """Times that a thread of theirs went to sleep."""


def thread_seconds(server: Server, tid: int) -> float:
    """Tells the CPU time of a thread, to the nanosecond."""
    return int(Path(f"/proc/{server.pid}/task/{tid}/schedstat").read_text(encoding="ascii").split()[0]) / 1e9


def thread_wakes(server: Server, tid: int) -> int:
    """Tells how often a thread went to sleep."""
    status = Path(f"/proc/{server.pid}/task/{tid}/status").read_text(encoding="ascii")
    return int(status.partition("\nvoluntary_ctxt_switches:")[2].split()[0])


def used(bare: Sequence[Server], guarded: Sequence[tuple[Server, set[int]]], window: float) -> Used:
    """Watches for a while; the guards' threads are those that were there before the first connection."""

    def now() -> list[float]:
        threads = [(server, tid) for server, tids in guarded for tid in tids]
        return [
            time.monotonic(),
            sum(thread_seconds(*thread) for thread in threads),
            sum(server.cpu_seconds() for server, _ in guarded) - sum(server.cpu_seconds() for server in bare),
            sum(thread_wakes(*thread) for thread in threads),
        ]

    before = now()
    time.sleep(window)
    seconds, thread, more, wakes = (b - a for a, b in zip(before, now(), strict=True))
    return Used(thread / seconds * 1e3, more / seconds * 1e3, wakes / seconds)


def quiet(n_processes: int, n_connections: int, asked: Options) -> Used:
    """Measures processes with connections that say nothing, beside as many bare ones."""
    side = guarded_unless(against_itself=asked.against_itself)
    hosts = [f"127.0.0.{number + 1}" for number in range(n_processes)]
    with contextlib.ExitStack() as stack:
        bare = [stack.enter_context(serving(BARE, SCRIPT, host)) for host in hosts]
        guarded = [stack.enter_context(serving(side, SCRIPT, host)) for host in hosts]
        threads = [(server, server.threads()) for server in guarded]
        for server, host in zip((*bare, *guarded), (*hosts, *hosts), strict=True):
            stack.enter_context(crowd((host, server.port), n_connections))
        time.sleep(SETTLE)
        return used(bare, threads, asked.pick(WINDOW, 5))


def talking(asked: Options) -> Used:
    """Measures one process whose connections speak just before the guard would end them."""
    side = guarded_unless(against_itself=asked.against_itself, timeout=TIMEOUT)
    with serving(side, SCRIPT) as server:
        threads = server.threads()
        with crowd(server.address, PER_PROCESS, EVERY):
            time.sleep(SETTLE + 2 * TIMEOUT)
            return used([], [(server, threads)], asked.pick(WINDOW, 5))


def percent(used_ms: float) -> float:
    """Makes percent of one core of milliseconds for each second."""
    return used_ms / 10


def section_of(asked: Options) -> Section:
    """Measures all."""
    crowds = [*asked.pick([(1, 0), (1, 1000)], []), (1, PER_PROCESS), (N_PROCESSES, PER_PROCESS)]
    results = {(n, each): quiet(n, each, asked) for n, each in crowds}
    rows: list[list[str | float]] = [row_of(f"{n} x {each:,}", result) for (n, each), result in results.items()]
    one, many = (results[n, PER_PROCESS] for n in (1, N_PROCESSES))
    busy = talking(asked)
    rows.append(row_of(f"1 x {PER_PROCESS:,}, each speaks every {EVERY:g} s, timeout {TIMEOUT:g} s", busy))
    look_us = (busy.thread_ms - one.thread_ms) / (PER_PROCESS / EVERY) * 1e3
    looks_ms = PER_PROCESS / 300 * look_us / 1e3
    notes = [
        f"One window of {asked.pick(WINDOW, 5):g} s each. `sockguard run --idle-timeout 300`, selectors servers.",
        "`more than bare`: CPU time of the guarded processes less that of as many bare ones, as quiet and beside them.",
        "Timers of 300 s do not fire in the window. In the last row they do, each as often as its peer speaks.",
        f"So a look costs {look_us:.2g} us; {PER_PROCESS:,} in 300 s make {percent(looks_ms):.2g} % of a core.",
    ]
    return Section("Quiet connections", notes, COLUMNS, rows, bars_of(one, many, looks_ms))


COLUMNS = [
    "processes x connections",
    "guard's threads, % of a core",
    "more than bare, %",
    "wakes/s",
    "us for each wake",
]


def row_of(name: str, result: Used) -> list[str | float]:
    """Makes a line."""
    each = result.thread_ms / result.wakes * 1e3 if result.wakes else ""
    return [name, percent(result.thread_ms), percent(result.more_ms), result.wakes, each]


def bars_of(one: Used, many: Used, looks_ms: float) -> list[Bar]:
    """Judges the CPU time."""
    thread, more = percent(one.thread_ms + looks_ms), percent(one.more_ms + looks_ms)
    growth = many.thread_ms / one.thread_ms if one.thread_ms else 1.0
    under = f"under {LIMIT:g} % of a core with {PER_PROCESS:,} quiet connections, looks included"
    at_most = f"at most {N_PROCESSES * LINEAR:g} times that for {N_PROCESSES} times the connections"
    return [
        Bar(f"the guard's thread {under}", thread, thread, thread, " %", thread < LIMIT),
        Bar(f"the guarded process, more than bare, {under}", more, more, more, " %", more < LIMIT),
        Bar(f"the guard's threads take {at_most}", growth, growth, growth, " x", growth <= N_PROCESSES * LINEAR),
    ]


def main() -> None:
    """Measures all, prints it and writes results/guard_quiet.json."""
    asked = options()
    finish("guard_quiet", [section_of(asked)], asked)


if __name__ == "__main__":
    main()
