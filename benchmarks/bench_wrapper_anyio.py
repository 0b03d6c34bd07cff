"""What do guarded streams of anyio cost, against bare ones? Echo servers on asyncio, uvloop and trio.

The servers differ in nothing but where `create_tcp_listener` comes from, and its policy. What is
measured of messages and how is as in `bench_guard_data_path.py`; besides, connections of one
message each, which is where wrapping and closing count.
"""

import contextlib
import importlib.util
import statistics
from collections.abc import Callable, Iterator
from itertools import chain
from typing import NamedTuple

from harness import Bar, Section
from load import churn, connections, ping_pong
from ratios import Options, Ratio, Sample, finish, median_verdict, options, pairs, ratio_of, take_turns
from sides import BARE, GUARDED, Server, Side, serving

SCRIPT = "echo_anyio.py"
BACKENDS = ("asyncio", "uvloop", "trio")
SIZES = {"64 B": 64, "16 KiB": 16384}
CROWDS = (1, 100)
CHURN = "connections"
LIMIT = 0.98
TURN, CHURN_TURN, WARM_UP = 0.06, 0.2, 0.03
"""Seconds, as in `bench_guard_data_path.py`."""
AT_ONCE = 20
N_GENERATIONS = 24

Samples = dict[str, list[Sample]]
Turn = Callable[[str], Sample]


class Cell(NamedTuple):
    """One combination of back end, what is counted, and number of connections."""

    backend: str
    what: str
    n_connections: int

    def __str__(self) -> str:
        return f"{self.backend}, {self.what}, {self.n_connections:,}"


Outcome = dict[Cell, list[Samples]]
"""Cell -> what the turns of each generation have shown."""


def measure(asked: Options) -> Outcome:
    """Measures all cells, generation by generation."""
    outcome: Outcome = {}
    backends = [name for name in BACKENDS if name == "asyncio" or importlib.util.find_spec(name)]
    for name in sorted(set(BACKENDS) - set(backends)):
        print(f"    SKIPPED: {name} is not installed", flush=True)
    for number in range(asked.pick(N_GENERATIONS, 6)):
        for backend in backends:
            for cell, samples in one_generation(backend, number, asked):
                outcome.setdefault(cell, []).append(samples)
        print(f"    generation {number + 1} of servers is done", flush=True)
    return outcome


def one_generation(backend: str, number: int, asked: Options) -> Iterator[tuple[Cell, Samples]]:
    """Starts both servers on one back end, and measures all of its cells."""
    sides = [BARE, Side(GUARDED, (), () if asked.against_itself else ("--guarded",))]
    with contextlib.ExitStack() as stack:
        order = sides if number % 2 else sides[::-1]
        servers = {side.name: stack.enter_context(serving(side, SCRIPT, backend)) for side in order}
        for size, n_connections in ((size, crowd) for size in SIZES for crowd in asked.pick(CROWDS, CROWDS[1:])):
            yield Cell(backend, size, n_connections), messages(servers, SIZES[size], n_connections, number)
        yield Cell(backend, CHURN, AT_ONCE), take_turns([BARE.name, GUARDED], churning(servers), number)


def messages(servers: dict[str, Server], size: int, n_connections: int, number: int) -> Samples:
    """Connects to both sides, and lets them take turns."""
    payload = b"x" * size
    with contextlib.ExitStack() as stack:
        socks = {
            name: stack.enter_context(connections(server.address, n_connections)) for name, server in servers.items()
        }
        for name in servers:
            ping_pong(socks[name], payload, WARM_UP)
        turn = timed(servers, lambda name: ping_pong(socks[name], payload, TURN))
        return take_turns([BARE.name, GUARDED], turn, number)


def churning(servers: dict[str, Server]) -> Turn:
    """Makes the turn that counts connections."""
    return timed(servers, lambda name: churn(servers[name].address, b"x" * 64, CHURN_TURN, AT_ONCE))


def timed(servers: dict[str, Server], work: Callable[[str], tuple[int, float]]) -> Turn:
    """Adds the server's CPU time to what a turn counts."""

    def turn(name: str) -> Sample:
        cpu_before = servers[name].cpu_seconds()
        n_done, elapsed = work(name)
        return Sample(n_done / elapsed, (servers[name].cpu_seconds() - cpu_before) / n_done * 1e6)

    return turn


def ratios_of(cells: list[list[Samples]], field: str = "per_second") -> Ratio:
    """Compares the sides over some cells together."""
    each = [[pairs(samples, GUARDED, BARE.name, field) for samples in generations] for generations in cells]
    return ratio_of([list(chain(*same)) for same in zip(*each, strict=True)])


def row_of(cell: Cell, generations: list[Samples]) -> list[str | float]:
    """Makes the line of a cell."""
    bare = [sample for samples in generations for sample in samples[BARE.name]]
    ratio = ratios_of([generations])
    return [
        str(cell),
        statistics.median(sample.per_second for sample in bare),
        statistics.median(sample.cpu_us for sample in bare),
        *ratio,
        median_verdict(ratio, LIMIT),
        ratios_of([generations], "per_cpu_second").median,
    ]


def bars_of(outcome: Outcome) -> Iterator[Bar]:
    """Judges each back end by all of its cells of messages together."""
    for backend in BACKENDS:
        cells = [each for cell, each in outcome.items() if cell.backend == backend and cell.what != CHURN]
        if cells:
            together = ratios_of(cells)
            bar = together.bar(f"anyio on {backend}, messages per second: guarded at least {LIMIT:g} of bare", LIMIT)
            yield bar._replace(is_met=median_verdict(together, LIMIT) == "met")


def section_of(outcome: Outcome) -> Section:
    """Makes the table."""
    n_generations = len(next(iter(outcome.values())))
    columns = ["back end, what, connections", "bare, per second", "bare, us of CPU", "guarded / bare"]
    columns += ["95 %: from", "to", f"reaches {LIMIT:g}", "by CPU time"]
    notes = [
        f"Medians of {n_generations} generations of servers, in each two turns of {TURN:g} s per side.",
        f"Connections are made, used for one message, and closed, {AT_ONCE} at once; in turns of {CHURN_TURN:g} s.",
        "Server and client share one CPU, so the client's time is in the ratio; by CPU time: of the server alone.",
        "Each bar judges all cells of messages of a back end together.",
    ]
    rows = [row_of(cell, generations) for cell, generations in outcome.items()]
    return Section("Guarded streams of anyio", notes, columns, rows, list(bars_of(outcome)))


def main() -> None:
    """Measures all, prints it and writes results/wrapper_anyio.json."""
    asked = options()
    packages = [name for name in ("anyio", "trio", "uvloop") if importlib.util.find_spec(name)]
    finish("wrapper_anyio", [section_of(measure(asked))], asked, packages)


if __name__ == "__main__":
    main()
