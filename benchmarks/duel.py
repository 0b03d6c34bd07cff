"""A wrapper against what it wraps: two servers that differ in nothing else take turns at the same work.

What is measured of messages and how is as in `bench_guard_data_path.py`. The tables judge by the
median, and what a bar speaks of is judged by all of its cells together.
"""

import contextlib
import statistics
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import NamedTuple

from harness import Bar, Section
from load import churn, connections, ping_pong
from ratios import Options, Ratio, Sample, median_verdict, pairs, ratio_of, take_turns
from sides import BARE, GUARDED, Server, Side, serving

__all__ = [
    "ABOUT_CPU", "SIZES", "TURN", "Calls", "Generations", "Servers", "both_serving", "columns_of", "coming_and_going",
    "medians_of", "messages", "ratios_of", "row_of", "together_bar",
]  # fmt: skip

SIZES = {"64 B": 64, "16 KiB": 16384}
TURN, WARM_UP = 0.06, 0.03
"""Seconds, as in `bench_guard_data_path.py`."""
ABOUT_CPU = "Server and client share one CPU, so the client's time is in the ratio; by CPU time: of the server alone."

Servers = dict[str, Server]
Samples = dict[str, list[Sample]]
Generations = list[Samples]


@contextlib.contextmanager
def both_serving(asked: Options, number: int, script: str, *words: str) -> Iterator[Servers]:
    """Starts the bare server and the guarded one, in another order each generation."""
    sides = [Side(BARE.name, (), words), Side(GUARDED, (), words + ("--guarded",) * (not asked.against_itself))]
    with contextlib.ExitStack() as stack:
        yield {side.name: stack.enter_context(serving(side, script)) for side in (sides if number % 2 else sides[::-1])}


def messages(servers: Servers, size: str, n_connections: int, number: int, warm_up: float = WARM_UP) -> Samples:
    """Connects to both sides, and lets them take turns at echoing."""
    payload = b"x" * SIZES[size]
    with contextlib.ExitStack() as stack:
        socks = {
            name: stack.enter_context(connections(server.address, n_connections)) for name, server in servers.items()
        }
        for name in servers:
            ping_pong(socks[name], payload, warm_up)
        return _turns(servers, lambda name: ping_pong(socks[name], payload, TURN), number)


def coming_and_going(servers: Servers, seconds: float, n_at_once: int, number: int) -> Samples:
    """Lets connections of one message each come and go on both sides, in turns."""
    for server in servers.values():
        churn(server.address, b"x" * 64, seconds / 3, n_at_once)
    return _turns(servers, lambda name: churn(servers[name].address, b"x" * 64, seconds, n_at_once), number)


def _turns(servers: Servers, work: Callable[[str], tuple[int, float]], number: int) -> Samples:
    """Takes turns at work that counts what it did, in how many seconds; adds the server's CPU time."""

    def turn(name: str) -> Sample:
        cpu_before = servers[name].cpu_seconds()
        n_done, elapsed = work(name)
        return Sample(n_done / elapsed, (servers[name].cpu_seconds() - cpu_before) / n_done * 1e6)

    return take_turns([BARE.name, GUARDED], turn, number)


# --- What can be said of it ---


class Ratios(NamedTuple):
    """The guarded side in parts of the bare one."""

    by_time: Ratio
    by_cpu: Ratio


def ratios_of(cells: Sequence[Generations]) -> Ratios:
    """Compares the sides in what they do per second, and per second of CPU time, over some cells together."""

    def ratio(field: str) -> Ratio:
        each = [[pairs(samples, GUARDED, BARE.name, field) for samples in generations] for generations in cells]
        return ratio_of([list(chain(*same)) for same in zip(*each, strict=True)])

    return Ratios(ratio("per_second"), ratio("per_cpu_second"))


def medians_of(generations: Generations) -> tuple[float, float]:
    """Gives the bare side's rate and its microseconds of CPU time."""
    bare = [sample for samples in generations for sample in samples[BARE.name]]
    return statistics.median(s.per_second for s in bare), statistics.median(s.cpu_us for s in bare)


def columns_of(what: str, unit: str, limit: float) -> list[str]:
    """Names what `row_of` gives."""
    measured = [f"bare, {unit}", "bare, us of CPU", "guarded / bare", "95 %: from", "to"]
    return [what, *measured, f"reaches {limit:g}", "by CPU time"]


def row_of(name: str, generations: Generations, limit: float) -> list[str | float]:
    """Makes the line of a cell."""
    ratio, by_cpu = ratios_of([generations])
    return [name, *medians_of(generations), *ratio, median_verdict(ratio, limit), by_cpu.median]


def together_bar(promise: str, cells: Sequence[Generations], limit: float, *, by_cpu: bool = False) -> Bar:
    """Judges some cells together."""
    ratios = ratios_of(cells)
    return (ratios.by_cpu if by_cpu else ratios.by_time).bar(f"{promise}: guarded at least {limit:g} of bare", limit)


# --- Calls that a server times itself ---


class Calls:
    """What two calls of a server cost: microseconds for one connection, of many in a row.

    Args:
        word: What the server is asked for; it answers with the microseconds of both calls.
    """

    def __init__(self, word: str, n_rounds: int, n_sockets: int) -> None:
        self.times: dict[str, list[list[tuple[float, float]]]] = {BARE.name: [], GUARDED: []}
        """Side -> generations -> rounds -> both calls."""
        self._word, self.n_rounds, self.n_sockets = word, n_rounds, n_sockets

    def time_calls(self, servers: Servers) -> None:
        """Has both sides do it, in turns; the first round does not count."""
        for times in self.times.values():
            times.append([])
        ports = {name: int(server.ask("port")) for name, server in servers.items()}
        for number in range(-1, self.n_rounds):
            for name in sorted(servers, reverse=bool(number % 2)):
                with connections(("127.0.0.1", ports[name]), self.n_sockets):
                    first, second = servers[name].ask(f"{self._word} {self.n_sockets}").split()
                if number >= 0:
                    self.times[name][-1].append((float(first), float(second)))

    def section(self, title: str, names: tuple[str, str], promise: str, limit_us: float) -> Section:
        """Makes the table; the bar is for the first of the two calls."""
        rows: list[list[str | float]] = []
        more = [self._more(at) for at in range(2)]
        for at, name in enumerate(names):
            medians = [
                statistics.median(pair[at] for pair in chain(*self.times[side])) for side in (BARE.name, GUARDED)
            ]
            rows.append([name, *medians, *more[at]])
        bar = Bar(f"{promise} takes at most {limit_us:g} us more", *more[0], " us", more[0].high <= limit_us)
        notes = [
            f"Microseconds for each connection, of {self.n_sockets} in a row, in {self.n_rounds} rounds a generation."
        ]
        return Section(title, notes, ["us", "bare", "guarded", "more", "95 %: from", "to"], rows, [bar])

    def _more(self, at: int) -> Ratio:
        both = zip(self.times[GUARDED], self.times[BARE.name], strict=True)
        return ratio_of([[a[at] - b[at] for a, b in zip(ours, theirs, strict=True)] for ours, theirs in both])
