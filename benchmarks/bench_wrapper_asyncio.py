"""What does sockguard.aio cost, against asyncio's own functions? Echo servers of streams and of protocols.

The servers differ in nothing but the function that starts them. What is measured of messages,
and how, is as in `bench_guard_data_path.py`; of connections that come and go, as in `bench_guard_churn.py`.
"""

import contextlib
import statistics
from collections.abc import Iterator
from itertools import chain

from harness import Bar, Section
from load import churn, connections, ping_pong
from ratios import Options, Ratio, Sample, finish, median_verdict, options, pairs, ratio_of, take_turns
from sides import BARE, GUARDED, Server, Side, serving

SCRIPT = "echo_aio.py"
KINDS = {
    "asyncio streams": (),
    "asyncio protocol": ("--protocol",),
    "uvloop streams": ("--uvloop",),
    "uvloop protocol": ("--uvloop", "--protocol"),
}
SIZES = {"64 B": 64, "16 KiB": 16384}
CROWDS = (1, 100)
LIMIT = 0.98
TURN, WARM_UP, CHURN = 0.06, 0.03, 0.15
"""Seconds, as in the two benchmarks named above."""
N_GENERATIONS = 24
N_AT_ONCE = 16
"""Connections under way at a time, of those that come and go."""

Samples = dict[str, list[Sample]]
Cell = tuple[str, str, int]
Messages = dict[Cell, list[Samples]]
Churn = dict[str, list[Samples]]


def measure(asked: Options) -> tuple[Messages, Churn]:
    """Measures all, generation by generation."""
    messages: Messages = {}
    coming: Churn = {}
    for number in range(asked.pick(N_GENERATIONS, 4)):
        for kind, words in KINDS.items():
            sides = [Side(BARE.name, (), words), Side(GUARDED, (), words + ("--guarded",) * (not asked.against_itself))]
            with contextlib.ExitStack() as stack:
                order = sides if number % 2 else sides[::-1]
                servers = {side.name: stack.enter_context(serving(side, SCRIPT)) for side in order}
                coming.setdefault(kind, []).append(coming_and_going(servers, number))
                for cell in cells_of(kind, asked):  # last, as the guard makes itself ready in its first second
                    messages.setdefault(cell, []).append(one_cell(servers, cell, number))
        print(f"    generation {number + 1} of servers is done", flush=True)
    return messages, coming


def cells_of(kind: str, asked: Options) -> Iterator[Cell]:
    """Yields the combinations of size and number of connections."""
    for size in SIZES:
        for n_connections in asked.pick(CROWDS, CROWDS[1:]):
            yield kind, size, n_connections


def one_cell(servers: dict[str, Server], cell: Cell, number: int) -> Samples:
    """Connects to both sides, and lets them take turns."""
    payload, n_connections = b"x" * SIZES[cell[1]], cell[2]
    with contextlib.ExitStack() as stack:
        socks = {
            name: stack.enter_context(connections(server.address, n_connections)) for name, server in servers.items()
        }

        def turn(name: str) -> Sample:
            cpu_before = servers[name].cpu_seconds()
            n_messages, elapsed = ping_pong(socks[name], payload, TURN)
            return Sample(n_messages / elapsed, (servers[name].cpu_seconds() - cpu_before) / n_messages * 1e6)

        for name in servers:
            ping_pong(socks[name], payload, WARM_UP)
        return take_turns([BARE.name, GUARDED], turn, number)


def coming_and_going(servers: dict[str, Server], number: int) -> Samples:
    """Lets connections come and go on both sides, in turns."""

    def turn(name: str) -> Sample:
        server = servers[name]
        cpu_before = server.cpu_seconds()
        n_connections, elapsed = churn(server.address, b"x" * 64, CHURN, N_AT_ONCE)
        return Sample(n_connections / elapsed, (server.cpu_seconds() - cpu_before) / n_connections * 1e6)

    for server in servers.values():
        churn(server.address, b"x" * 64, CHURN / 3, N_AT_ONCE)
    return take_turns([BARE.name, GUARDED], turn, number)


def ratios_of(cells: list[list[Samples]]) -> tuple[Ratio, Ratio]:
    """Compares the sides in what they do per second, and per second of CPU time, over some cells together."""

    def ratio(field: str) -> Ratio:
        each = [[pairs(samples, GUARDED, BARE.name, field) for samples in generations] for generations in cells]
        return ratio_of([list(chain(*same)) for same in zip(*each, strict=True)])

    return ratio("per_second"), ratio("per_cpu_second")


def medians_of(generations: list[Samples]) -> tuple[float, float]:
    """Gives the bare side's rate and its microseconds of CPU time."""
    bare = [sample for samples in generations for sample in samples[BARE.name]]
    return statistics.median(s.per_second for s in bare), statistics.median(s.cpu_us for s in bare)


def messages_section(messages: Messages) -> Section:
    """Makes the table of messages."""
    rows: list[list[str | float]] = []
    for (kind, size, n_connections), generations in messages.items():
        ratio, by_cpu = ratios_of([generations])
        name = f"{kind}, {size}, {n_connections:,}"
        rows.append([name, *medians_of(generations), *ratio, median_verdict(ratio, LIMIT), by_cpu.median])
    n_generations = len(next(iter(messages.values())))
    notes = [
        f"Medians of {n_generations} generations of servers, in each two turns of {TURN:g} s a side.",
        "`guarded` is `sockguard.aio`, with a policy of its own; `bare` is asyncio's function of the same name.",
        "Connections came and went before, for a second: by then the guard has made itself ready.",
        "Server and client share one CPU, so the client's time is in the ratio; by CPU time: of the server alone.",
        "The last lines judge all cells of a kind together.",
    ]
    columns = [
        "kind, message, connections",
        "bare, messages/s",
        "bare, us of CPU",
        "guarded / bare",
        "95 %: from",
        "to",
    ]
    columns += [f"reaches {LIMIT:g}", "by CPU time"]
    return Section("Messages by sockguard.aio", notes, columns, rows, list(bars_of(messages)))


def bars_of(messages: Messages) -> Iterator[Bar]:
    """Judges each kind by all of its cells together, by time and by CPU time."""
    for kind in KINDS:
        together = ratios_of([generations for cell, generations in messages.items() if cell[0] == kind])
        for ratio, unit in zip(together, ("second", "second of the server's CPU time"), strict=True):
            bar = ratio.bar(f"{kind}, messages per {unit}: guarded at least {LIMIT:g} of bare", LIMIT)
            yield bar._replace(is_met=median_verdict(ratio, LIMIT) == "met")


def churn_section(coming: Churn) -> Section:
    """Makes the table of connections that come and go."""
    rows: list[list[str | float]] = []
    for kind, generations in coming.items():
        ratio, by_cpu = ratios_of([generations])
        more = [
            guarded.cpu_us - bare.cpu_us
            for samples in generations
            for guarded, bare in zip(samples[GUARDED], samples[BARE.name], strict=True)
        ]
        rows.append([kind, *medians_of(generations), *ratio, by_cpu.median, statistics.median(more)])
    notes = [
        f"{N_AT_ONCE} connections at a time. Each says 64 B, hears them again and closes.",
        "`us more` is what it costs the server to take a connection in, to watch its handler, and to forget it.",
    ]
    columns = ["kind", "bare, connections/s", "bare, us of CPU", "guarded / bare", "95 %: from", "to", "by CPU time"]
    return Section("Connections by sockguard.aio", notes, [*columns, "guarded, us more"], rows, [])


def main() -> None:
    """Measures all, prints it and writes results/wrapper_asyncio.json."""
    asked = options()
    messages, coming = measure(asked)
    finish("wrapper_asyncio", [messages_section(messages), churn_section(coming)], asked, ["uvloop"])


if __name__ == "__main__":
    main()
