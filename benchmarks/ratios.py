"""Ratios of two sides that took turns: how the turns are arranged, and what can be said of them.

A comparison goes through many generations. In each, all servers are started anew, as the random
layout of its memory alone makes a process some percent faster or slower for as long as it lives
(measured: 3 % from one to the next, and 0.5 % where the layout was held the same).
In a generation short turns alternate, in the order A B C B A, and in the next B A C A B. Each turn
is compared with its neighbour, which was in the same weather; the median of these ratios counts, and
its 95 % interval comes from a bootstrap that draws whole generations, as they are what repeats.
"""

import argparse
import random
import statistics
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from harness import Bar, Section, save, show

__all__ = ["Options", "Ratio", "Sample", "finish", "options", "pairs", "ratio_of", "take_turns", "verdict"]

N_DRAWS = 2000
WIDE = 0.06
"""An interval wider than this decides nothing, unless all of it is on one side of the bar."""

Generations = Sequence[Sequence[float]]


class Options(NamedTuple):
    """What was asked on the command line."""

    quick: bool
    against_itself: bool

    def pick(self, full: Any, quick: Any) -> Any:  # noqa: ANN401 - two values of one type, whichever it is
        """Chooses the thorough or the quick value."""
        return quick if self.quick else full


class Sample(NamedTuple):
    """What one turn has shown."""

    per_second: float
    cpu_us: float
    """Microseconds of the server's CPU time for each message."""

    @property
    def per_cpu_second(self) -> float:
        """What a second of the server's CPU time would do."""
        return 1e6 / self.cpu_us


class Ratio(NamedTuple):
    """A median and its 95 % interval."""

    median: float
    low: float
    high: float

    def bar(self, promise: str, limit: float) -> Bar:
        """Judges a median that must not be below a limit."""
        return Bar(promise, *self, " x", self.median >= limit)


def options() -> Options:
    """Reads the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="a coarse look; prints, and keeps no results")
    parser.add_argument("--against-itself", action="store_true", help="bare against bare: shows the noise; keeps none")
    return Options(**vars(parser.parse_args()))


def finish(name: str, sections: Sequence[Section], asked: Options, packages: Sequence[str] = ()) -> None:
    """Prints the sections and keeps them as results, unless they are coarse or of bare against bare."""
    if any(asked):
        for section in sections:
            show(section)
    else:
        save(name, sections, packages)


def take_turns(names: Sequence[str], turn: Callable[[str], Sample], number: int) -> dict[str, list[Sample]]:
    """Lets the first two sides take two turns each and all others one, in the middle."""
    first, second = names[:2] if number % 2 == 0 else (names[1], names[0])
    samples: dict[str, list[Sample]] = {name: [] for name in names}
    for name in (first, second, *names[2:], second, first):
        samples[name].append(turn(name))
    return samples


def pairs(samples: dict[str, list[Sample]], name: str, reference: str, field: str = "per_second") -> list[float]:
    """Compares neighbouring turns; one in the middle is compared with the mean of those around it."""
    ours = [getattr(sample, field) for sample in samples[name]]
    theirs = [getattr(sample, field) for sample in samples[reference]]
    if len(ours) < len(theirs):
        theirs = [statistics.fmean(theirs)]
    return [a / b for a, b in zip(ours, theirs, strict=True)]


def ratio_of(generations: Generations) -> Ratio:
    """Takes the median of all ratios, and its interval."""
    dice = random.Random(0)  # noqa: S311 - statistics, no secrets
    drawn = []
    for _ in range(N_DRAWS):
        draw = dice.choices(generations, k=len(generations))
        drawn.append(statistics.median([value for values in draw for value in values]))
    cuts = statistics.quantiles(drawn, n=40)
    return Ratio(statistics.median([value for values in generations for value in values]), cuts[0], cuts[-1])


def median_verdict(ratio: Ratio, limit: float) -> str:
    """Says whether the median is at a limit, or above."""
    return "met" if ratio.median >= limit else "NOT met"


def verdict(ratio: Ratio, limit: float) -> str:
    """Says whether an interval reaches a limit."""
    if ratio.high < limit:
        return "NOT met"
    return "met" if ratio.low >= limit or ratio.high - ratio.low < WIDE else "open: too noisy"
