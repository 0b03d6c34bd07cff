"""What does the guard cost where bytes flow? Echo servers of five kinds, guarded against bare.

Beside them, for the asyncio kinds, the time limit that one writes by hand: `asyncio.timeout`
around each read, or a timer that a protocol arms anew with each piece of data. And a bare server
with a second thread that does nothing, as that alone has its price.
"""

import contextlib
import statistics
import time
from collections.abc import Iterator
from itertools import chain
from typing import NamedTuple

from harness import Bar, Section
from load import connections, ping_pong
from ratios import Options, Sample, finish, options, pairs, ratio_of, take_turns, verdict
from sides import BARE, GUARDED, IDLE_THREAD, TIMER, Server, guarded_unless, serving

KINDS = {
    "asyncio streams": ("echo_streams.py", True),
    "asyncio protocol": ("echo_protocol.py", True),
    "uvloop streams": ("echo_uvloop.py", True),
    "threads": ("echo_threads.py", False),
    "selectors": ("echo_selectors.py", False),
}
"""Kind -> script, and whether it knows `--timer`."""
SIZES = {"64 B": 64, "16 KiB": 16384}
CROWDS = (1, 100, 1000)
LIMIT = 0.99
TURN = 0.06
"""Seconds of a turn: short, so that neighbours share the weather, and long enough for thousands of messages."""
WARM_UP = 0.03
SETTLING = 0.6
"""Seconds, two ticks of the guard and more, in which new connections lie still: to take them on is no part of
the data path, it is what `bench_guard_churn.py` measures."""
N_GENERATIONS = 24

Samples = dict[str, list[Sample]]


class Cell(NamedTuple):
    """One combination of kind, size and number of connections."""

    kind: str
    size: str
    n_connections: int

    def __str__(self) -> str:
        return f"{self.kind}, {self.size}, {self.n_connections:,}"


Outcome = dict[Cell, list[Samples]]
"""Cell -> what the turns of each generation have shown."""


def measure(asked: Options) -> Outcome:
    """Measures all cells, generation by generation."""
    outcome: Outcome = {}
    for number in range(asked.pick(N_GENERATIONS, 4)):
        for kind in KINDS:
            for cell, samples in one_generation(kind, number, asked):
                outcome.setdefault(cell, []).append(samples)
        print(f"    generation {number + 1} of servers is done", flush=True)
    return outcome


def one_generation(kind: str, number: int, asked: Options) -> Iterator[tuple[Cell, Samples]]:
    """Starts the servers of one kind, and measures all of its cells."""
    script, knows_timer = KINDS[kind]
    sides = [BARE, guarded_unless(against_itself=asked.against_itself), IDLE_THREAD, *([TIMER] if knows_timer else [])]
    with contextlib.ExitStack() as stack:
        started = {side: stack.enter_context(serving(side, script)) for side in (sides if number % 2 else sides[::-1])}
        servers = {side.name: started[side] for side in sides}
        for size in SIZES:
            for n_connections in asked.pick(CROWDS, CROWDS[1:2]):
                cell = Cell(kind, size, n_connections)
                yield cell, one_cell(servers, cell, number)


def one_cell(servers: dict[str, Server], cell: Cell, number: int) -> Samples:
    """Connects to all sides, and lets them take turns."""
    payload = b"x" * SIZES[cell.size]
    with contextlib.ExitStack() as stack:
        socks = {
            name: stack.enter_context(connections(server.address, cell.n_connections))
            for name, server in servers.items()
        }

        def turn(name: str) -> Sample:
            cpu_before = servers[name].cpu_seconds()
            n_messages, elapsed = ping_pong(socks[name], payload, TURN)
            cpu = servers[name].cpu_seconds() - cpu_before
            return Sample(n_messages / elapsed, cpu / n_messages * 1e6)

        time.sleep(SETTLING)
        for name in servers:
            ping_pong(socks[name], payload, WARM_UP)
        return take_turns(list(servers), turn, number)


def ratios(generations: list[Samples], name: str, field: str = "per_second") -> list[list[float]]:
    """Compares a side with the bare one, turn by turn, for each generation."""
    return [pairs(samples, name, BARE.name, field) for samples in generations]


def row_of(cell: Cell, generations: list[Samples]) -> list[str | float]:
    """Makes the line of a cell."""
    bare = [sample for samples in generations for sample in samples[BARE.name]]
    guarded = ratio_of(ratios(generations, GUARDED))
    return [
        str(cell),
        statistics.median(sample.per_second for sample in bare),
        statistics.median(sample.cpu_us for sample in bare),
        *guarded,
        verdict(guarded, LIMIT),
        ratio_of(ratios(generations, GUARDED, "per_cpu_second")).median,
        ratio_of(ratios(generations, IDLE_THREAD.name, "per_cpu_second")).median,
        ratio_of(ratios(generations, TIMER.name)).median if TIMER.name in generations[0] else "",
    ]


def bars_of(kind: str, outcome: Outcome) -> Iterator[Bar]:
    """Judges a kind by all of its cells together, which tells more than each can."""
    for field, unit in (("per_second", "second"), ("per_cpu_second", "second of the server's CPU time")):
        cells = [ratios(generations, GUARDED, field) for cell, generations in outcome.items() if cell.kind == kind]
        together = ratio_of([list(chain(*same)) for same in zip(*cells, strict=True)])
        bar = together.bar(f"{kind}, messages per {unit}: guarded at least {LIMIT:g} of bare", LIMIT)
        yield bar._replace(is_met=verdict(together, LIMIT) == "met")


def section_of(outcome: Outcome) -> Section:
    """Makes the table."""
    n_generations = len(next(iter(outcome.values())))
    columns = [
        *("kind, message, connections", "bare, messages/s", "bare, us of CPU"),
        *(
            "guarded / bare",
            "95 %: from",
            "to",
            f"reaches {LIMIT:g}",
            "by CPU time",
            "idle thread, by CPU time",
            "timer per read / bare",
        ),
    ]
    notes = [
        f"Medians of {n_generations} generations of servers, in each two turns of {TURN:g} s per side.",
        "`guarded` is `python -m sockguard run --idle-timeout 300 server.py`, `bare` is `python server.py`.",
        "A cell reaches the bar if its 95 % interval does, and is narrow enough to say anything.",
        f"Connections are {SETTLING:g} s old: what it costs to take on new ones is in the table of connection churn.",
        "By CPU time: messages per second of CPU time of the server's process, with the guard's thread in it.",
        "`idle thread` is a bare server beside a thread that only waits: what any guard with a thread costs.",
        "`timer per read`: `asyncio.timeout(300)` around each read; in a protocol, `call_later` for all that comes.",
        "The last lines judge all cells of a kind together.",
    ]
    rows = [row_of(cell, generations) for cell, generations in outcome.items()]
    return Section("Messages", notes, columns, rows, [bar for kind in KINDS for bar in bars_of(kind, outcome)])


def main() -> None:
    """Measures all, prints it and writes results/guard_data_path.json."""
    asked = options()
    finish("guard_data_path", [section_of(measure(asked))], asked, ["uvloop"])


if __name__ == "__main__":
    main()
