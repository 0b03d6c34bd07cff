"""What does the cost grow with: the sick sockets, or all of them? By how much each?

Each population is built in a fresh process, because a descriptor table never shrinks, and
all populations are visited once in each round.
"""

import contextlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

from harness import MS, Section, rounds_wanted, save
from populations import child_population, hold

import sockguard
from sockguard._core.facts import TcpState
from sockguard._kernel.inet_diag import open_diag, read_sockets

ROUNDS = 7
CALLS = 5
"""Calls of each kind per round, of which the median counts."""
PER_PROCESS = 8000
SIZES = (1000, 2000, 4000, 8000, 16000)
SICK = (0, 50, 200, 800, 3200)
POPULATIONS = sorted(
    {*((size, sick, 0) for size in SIZES for sick in (0, 200)), *((PER_PROCESS, sick, 0) for sick in SICK)}
)

QUEUED = (PER_PROCESS, 0, 1)
"""Healthy sockets here, while another process has not accepted a connection that hung up."""
POPULATIONS.append(QUEUED)

Point = tuple[int, int, int]
"""All sockets, those of them in CLOSE_WAIT, and queued ones of another process that hung up."""


def measure_here(n_sockets: int, n_sick: int, n_queued: int) -> dict[str, float]:
    """Measures one population: the sick are in this process, what exceeds 8,000 is in children."""
    n_others, n_own = max(0, n_sockets - PER_PROCESS), min(n_sockets, PER_PROCESS)
    with contextlib.ExitStack() as stack:
        for start in range(0, n_others, PER_PROCESS):
            stack.enter_context(child_population(min(PER_PROCESS, n_others - start), 0))
        if n_queued:
            stack.enter_context(child_population(0, 0, n_queued))
        stack.enter_context(hold(n_own, n_sick))
        diag = stack.enter_context(open_diag())
        assert len(sockguard.find_leaks(min_age=0)) == n_sick
        return {
            "find_leaks": _time(lambda: sockguard.find_leaks(min_age=0)),
            "netlink": _time(lambda: read_sockets(diag, [TcpState.CLOSE_WAIT], with_info=True)),
        }


def _time(run: Callable[[], object]) -> float:
    times = []
    for _ in range(CALLS):
        started = time.perf_counter()
        run()
        times.append((time.perf_counter() - started) * MS)
    return statistics.median(times)


def measure_all(n_rounds: int) -> dict[str, dict[Point, float]]:
    """Measures every population once per round, each in a fresh process; medians over the rounds."""
    times: dict[str, dict[Point, list[float]]] = {"find_leaks": {}, "netlink": {}}
    for number in range(n_rounds):
        turn = number % len(POPULATIONS)
        for point in (*POPULATIONS[turn:], *POPULATIONS[:turn]):
            command = [sys.executable, __file__, "--measure", *map(str, point)]
            answer = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            for kind, milliseconds in answer.items():
                times[kind].setdefault(point, []).append(milliseconds)
    return {kind: {point: statistics.median(t) for point, t in points.items()} for kind, points in times.items()}


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Fits a line by least squares and gives its slope, in microseconds for each socket."""
    return statistics.linear_regression(*zip(*points, strict=True)).slope * MS


def by_size(medians: dict[str, dict[Point, float]], n_rounds: int) -> Section:
    """Makes the table over all sockets, with and without sick ones."""
    rows: list[list[str | float]] = [
        [
            f"{size:,}" + (f" ({PER_PROCESS:,} here)" if size > PER_PROCESS else ""),
            *(medians[kind][size, sick, 0] for kind in medians for sick in (0, 200)),
        ]
        for size in SIZES
    ]
    slopes = [
        slope([(size, medians[kind][size, sick, 0]) for size in SIZES if size <= PER_PROCESS])
        for kind in medians
        for sick in (0, 200)
    ]
    rows.append(["us per socket, up to 8,000", *slopes])
    columns = ["sockets", "find_leaks, 0 sick", "find_leaks, 200 sick", "netlink, 0 sick", "netlink, 200 sick"]
    notes = [
        f"Milliseconds, medians of {n_rounds} rounds, each in a fresh process.",
        "The last row is the slope: what one more healthy socket costs. That is the kernel's walk through its table.",
        "In find_leaks, one poll() over the process's descriptors comes to it. No Python runs for a healthy socket.",
    ]
    return Section("Cost by the number of all sockets", notes, columns, rows)


def by_sick(medians: dict[str, dict[Point, float]], n_rounds: int) -> Section:
    """Makes the table over the sick sockets of 8,000."""
    rows: list[list[str | float]] = [
        [f"{sick:,}", *(medians[kind][PER_PROCESS, sick, 0] for kind in medians)] for sick in SICK
    ]
    rows.append(
        ["us per sick socket", *(slope([(s, medians[kind][PER_PROCESS, s, 0]) for s in SICK]) for kind in medians)]
    )
    worth = medians["find_leaks"][PER_PROCESS, 0, 0] * MS / float(rows[-1][1])
    columns = [f"sick of {PER_PROCESS:,}", "find_leaks", "netlink"]
    notes = [
        f"Milliseconds, medians of {n_rounds} rounds, each in a fresh process.",
        "The last row is the slope: what one more leak costs, from the kernel's answer to the judgement.",
        f"Healthy sockets are not free: {PER_PROCESS:,} of them cost find_leaks as much as {worth:.0f} sick ones.",
    ]
    return Section("Cost by the number of sick sockets", notes, columns, rows)


def by_neighbour(medians: dict[str, dict[Point, float]], n_rounds: int) -> Section:
    """Makes the table on what a connection in another process's accept queue costs."""
    rows: list[list[str | float]] = [
        [name, *(medians[kind][point] for kind in medians)]
        for name, point in (("none", (PER_PROCESS, 0, 0)), ("one", QUEUED))
    ]
    columns = ["hung up and not accepted, elsewhere", "find_leaks", "netlink"]
    notes = [
        f"Milliseconds, {PER_PROCESS:,} healthy sockets, medians of {n_rounds} rounds, each in a fresh process.",
        "Nobody but the owner of the listener is to blame, so for all others it should cost little.",
    ]
    return Section("Cost of a neighbour that does not accept", notes, columns, rows)


def main() -> None:
    """Measures all, prints it and writes results/scaling.json."""
    if sys.argv[1:2] == ["--measure"]:
        print(json.dumps(measure_here(*map(int, sys.argv[2:5]))))
        return
    n_rounds = rounds_wanted(ROUNDS)
    medians = measure_all(n_rounds)
    save("scaling", [by_size(medians, n_rounds), by_sick(medians, n_rounds), by_neighbour(medians, n_rounds)])


if __name__ == "__main__":
    main()
