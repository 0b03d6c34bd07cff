"""What does the guard cost where connections come and go? Connect, one echo, close; guarded against bare."""

import contextlib
import statistics
from collections.abc import Iterator, Sequence

from harness import Bar, Section
from load import churn
from ratios import Options, Sample, finish, options, pairs, ratio_of, take_turns
from sides import BARE, GUARDED, Server, guarded_unless, serving

KINDS = {
    "asyncio streams": "echo_streams.py",
    "asyncio protocol": "echo_protocol.py",
    "uvloop streams": "echo_uvloop.py",
    "threads": "echo_threads.py",
    "selectors": "echo_selectors.py",
}
LIMIT = 0.95
TURN = 0.15
N_GENERATIONS = 30
N_AT_ONCE = 16
"""Connections under way at a time."""
PAYLOAD = b"x" * 64

Outcome = dict[str, list[dict[str, list[Sample]]]]
"""Kind -> what the turns of each generation have shown."""


def measure(asked: Options) -> Outcome:
    """Measures all kinds, generation by generation."""
    outcome: Outcome = {kind: [] for kind in KINDS}
    for number in range(asked.pick(N_GENERATIONS, 4)):
        for kind, script in KINDS.items():
            outcome[kind].append(one_generation(script, number, asked))
    return outcome


def one_generation(script: str, number: int, asked: Options) -> dict[str, list[Sample]]:
    """Starts a server of each side, and lets them take turns."""
    sides = [BARE, guarded_unless(against_itself=asked.against_itself)]
    with contextlib.ExitStack() as stack:
        started = {side: stack.enter_context(serving(side, script)) for side in (sides if number % 2 else sides[::-1])}
        servers = {side.name: started[side] for side in sides}
        for server in servers.values():
            churn(server.address, PAYLOAD, TURN / 3, N_AT_ONCE)
        return take_turns(list(servers), lambda name: turn(servers[name]), number)


def turn(server: Server) -> Sample:
    """Lets connections come and go for a while."""
    cpu_before = server.cpu_seconds()
    n_connections, elapsed = churn(server.address, PAYLOAD, TURN, N_AT_ONCE)
    return Sample(n_connections / elapsed, (server.cpu_seconds() - cpu_before) / n_connections * 1e6)


def row_of(kind: str, generations: Sequence[dict[str, list[Sample]]]) -> list[str | float]:
    """Makes the line of a kind."""
    bare, guarded = ([sample for samples in generations for sample in samples[name]] for name in (BARE.name, GUARDED))
    cpu_us = statistics.median(sample.cpu_us for sample in bare)
    more_us = statistics.median(b.cpu_us - a.cpu_us for a, b in zip(bare, guarded, strict=True))
    by_cpu = ratio_of([pairs(samples, GUARDED, BARE.name, "per_cpu_second") for samples in generations])
    rate = statistics.median(sample.per_second for sample in bare)
    by_time = ratio_of([pairs(samples, GUARDED, BARE.name) for samples in generations])
    return [kind, rate, *by_time, by_cpu.median, cpu_us, more_us]


def bars_of(kind: str, generations: Sequence[dict[str, list[Sample]]]) -> Iterator[Bar]:
    """Judges a kind, by time and by CPU time."""
    for field, unit in (("per_second", "second"), ("per_cpu_second", "second of the server's CPU time")):
        ratio = ratio_of([pairs(samples, GUARDED, BARE.name, field) for samples in generations])
        yield ratio.bar(f"{kind}, connections per {unit}: guarded at least {LIMIT:g} of bare", LIMIT)


def section_of(outcome: Outcome) -> Section:
    """Makes the table."""
    n_generations = len(next(iter(outcome.values())))
    columns = [
        *("kind", "bare, connections/s", "guarded / bare", "95 %: from", "to"),
        *("by CPU time", "bare, us of CPU", "guarded, us more"),
    ]
    notes = [
        f"Medians of {n_generations} generations of servers, in each two turns of {TURN:g} s per side.",
        f"{N_AT_ONCE} connections at a time. Each says 64 B, hears them again and closes.",
        "By CPU time: connections per second of CPU time of the server's process, with the guard's thread in it.",
        "The client's work, on the same CPU, makes about half of the time and has no part in the CPU time.",
        "`us more` is what it costs the server to adopt and to forget a connection.",
    ]
    bars = [bar for kind, generations in outcome.items() for bar in bars_of(kind, generations)]
    return Section("Connections", notes, columns, [row_of(*item) for item in outcome.items()], bars)


def main() -> None:
    """Measures all, prints it and writes results/guard_churn.json."""
    asked = options()
    finish("guard_churn", [section_of(measure(asked))], asked, ["uvloop"])


if __name__ == "__main__":
    main()
