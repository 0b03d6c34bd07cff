"""How the benchmarks measure: in alternating rounds, with medians, quartiles and intervals.

Every contender is called once in each round, one after the other, and each round begins
with another one. So a machine that is slow for a while is slow for all of them, and nobody
always inherits the caches of the same neighbour. Ratios are of medians; their 95 %
intervals come from a bootstrap that draws whole rounds, as the rounds are what repeats.
"""

import argparse
import contextlib
import gc
import json
import os
import platform
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

__all__ = [
    "Bar",
    "Contender",
    "Section",
    "at_least_faster",
    "at_most_more",
    "compiled",
    "measure",
    "rounds_wanted",
    "save",
    "show",
]

RESULTS = Path(__file__).parent / "results"
N_DRAWS = 2000
MS = 1e3

Times = dict[str, list[float]]
"""Contender -> milliseconds, one for each round."""


class Contender(NamedTuple):
    """Something to be measured."""

    name: str
    run: Callable[[], Any]
    check: Callable[[Any], object] = lambda _: None
    """Raises AssertionError if the result of `run` is not the expected one; is not timed."""
    before: Callable[[], object] = lambda: None
    """What to do in each round before it is timed."""


class Bar(NamedTuple):
    """A promise, and what was measured of it."""

    promise: str
    measured: float
    low: float
    high: float
    unit: str
    is_met: bool

    def __str__(self) -> str:
        verdict = "met" if self.is_met else "NOT met"
        interval = f" (95 %: {self.low:.3g} to {self.high:.3g})" if self.low < self.high else ""
        return f"{self.promise}: measured {self.measured:.3g}{self.unit}{interval}: {verdict}"


class Section(NamedTuple):
    """One table of results, with what is to be said about it."""

    title: str
    notes: Sequence[str]
    columns: Sequence[str]
    rows: Sequence[Sequence[str | float]]
    bars: Sequence[Bar] = ()


def rounds_wanted(default: int) -> int:
    """Reads `--rounds N` from the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=default, metavar="N", help=f"default {default}")
    return int(parser.parse_args().rounds)


@contextlib.contextmanager
def compiled() -> Iterator[dict[str, str]]:
    """Gives an environment in which interpreters find compiled files after their first run.

    Whether the tree may be written to, and what PYTHONDONTWRITEBYTECODE says, does not matter.
    """
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": folder}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        yield environment


def measure(contenders: Sequence[Contender], n_rounds: int) -> Times:
    """Calls every contender once per round, after one round that does not count."""
    times: Times = {contender.name: [] for contender in contenders}
    for number in range(-1, n_rounds):
        turn = number % len(contenders)
        for contender in (*contenders[turn:], *contenders[:turn]):
            gc.collect()  # or the garbage of one would be swept in the time of the next
            contender.before()
            started = time.perf_counter()
            result = contender.run()
            elapsed = time.perf_counter() - started
            contender.check(result)
            if number >= 0:
                times[contender.name].append(elapsed * MS)
    return times


def timing_rows(times: Times, reference: str) -> list[list[str | float]]:
    """Makes a row of each contender: median, quartiles, least, and how many times the reference."""
    base = statistics.median(times[reference])
    rows: list[list[str | float]] = []
    for name, values in times.items():
        first, median, third = statistics.quantiles(values, n=4, method="inclusive")
        rows.append([name, median, first, third, min(values), median / base])
    return rows


def timing_section(title: str, notes: Sequence[str], times: Times, reference: str, bars: Sequence[Bar] = ()) -> Section:
    """Makes a section of alternating timings."""
    n_rounds = len(times[reference])
    columns = (f"{n_rounds} rounds, ms", "median", "lower quartile", "upper quartile", "least", f"x {reference}")
    return Section(title, notes, columns, timing_rows(times, reference), bars)


def at_least_faster(times: Times, fast: str, slow: str, factor: float) -> Bar:
    """Judges whether `fast` takes at most 1/factor of the time of `slow`."""
    ratio, low, high = _bootstrap(times[slow], times[fast], lambda a, b: a / b)
    return Bar(f"{fast} at least {factor:g} x faster than {slow}", ratio, low, high, " x", ratio >= factor)


def at_most_more(times: Times, ours: str, theirs: str, limit: float) -> Bar:
    """Judges whether `ours` takes at most `limit` milliseconds more than `theirs`."""
    more, low, high = _bootstrap(times[ours], times[theirs], lambda a, b: a - b)
    return Bar(f"{ours} at most {limit:g} ms over {theirs}", more, low, high, " ms", more <= limit)


def _bootstrap(
    first: Sequence[float], second: Sequence[float], compare: Callable[[float, float], float]
) -> tuple[float, float, float]:
    """Compares two medians; the same rounds are drawn for both, with a fixed seed."""
    rounds = range(len(first))
    dice = random.Random(0)  # noqa: S311 - statistics, no secrets
    drawn = []
    for _ in range(N_DRAWS):
        draw = dice.choices(rounds, k=len(rounds))
        drawn.append(compare(statistics.median(first[i] for i in draw), statistics.median(second[i] for i in draw)))
    cuts = statistics.quantiles(drawn, n=40)
    return compare(statistics.median(first), statistics.median(second)), cuts[0], cuts[-1]


def show(section: Section) -> None:
    """Prints a section as plain text."""
    cells = [list(section.columns), *([cell_text(cell) for cell in row] for row in section.rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    print(f"\n{section.title}\n")
    for name, *values in cells:
        print(name.ljust(widths[0]), *(v.rjust(w) for v, w in zip(values, widths[1:], strict=True)), sep="  ")
    print()
    for line in (*section.notes, *section.bars):
        print(f"- {line}")


def cell_text(cell: str | float) -> str:
    """Writes a number with three digits that count, or four before the point."""
    if isinstance(cell, str):
        return cell
    return f"{cell:,.0f}" if abs(cell) >= 1000 or cell == int(cell) else f"{cell:.3g}"  # noqa: PLR2004 - as it says


def save(name: str, sections: Sequence[Section], packages: Sequence[str] = ("psutil", "pyroute2")) -> None:
    """Prints sections and writes them to `results/NAME.json`, without dates, hosts and paths.

    Args:
        name: that of the benchmark, without `bench_`.
        sections: its tables.
        packages: what it measured besides sockguard; their versions are kept.
    """
    for section in sections:
        show(section)
    facts = {
        "python": platform.python_version(),
        "kernel": platform.release().partition("-")[0],
        "cpus": os.cpu_count(),
        **{package: metadata.version(package) for package in packages},
        "sections": [_as_dict(section) for section in sections],
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def _as_dict(section: Section) -> dict[str, object]:
    rows = [[cell if isinstance(cell, str) else round(cell, 4) for cell in row] for row in section.rows]
    bars = [{**bar._asdict(), "text": str(bar)} for bar in section.bars]
    return {**section._asdict(), "rows": rows, "bars": [{k: _rounded(v) for k, v in bar.items()} for bar in bars]}


def _rounded(value: object) -> object:
    return round(value, 4) if isinstance(value, float) else value
