"""What do guarded streams of anyio cost, against bare ones? Echo servers on asyncio, uvloop and trio.

The servers differ in nothing but where `create_tcp_listener` comes from, and its policy. Besides messages,
connections of one message each are measured, which is where wrapping and closing count.
"""

import importlib.util
from collections.abc import Iterator

import duel
from harness import Bar, Section
from ratios import Options, finish, options

SCRIPT = "echo_anyio.py"
BACKENDS = ("asyncio", "uvloop", "trio")
CROWDS = (1, 100)
CHURN = "connections"
LIMIT = 0.98
CHURN_TURN = 0.2
"""Seconds of a turn of connections that come and go."""
AT_ONCE = 20
N_GENERATIONS = 24

Outcome = dict[tuple[str, str, int], duel.Generations]
"""Back end, what is counted, number of connections -> what the turns of each generation have shown."""


def measure(asked: Options) -> Outcome:
    """Measures all cells, generation by generation."""
    outcome: Outcome = {}
    backends = [name for name in BACKENDS if name == "asyncio" or importlib.util.find_spec(name)]
    for name in sorted(set(BACKENDS) - set(backends)):
        print(f"    SKIPPED: {name} is not installed", flush=True)
    for number in range(asked.pick(N_GENERATIONS, 6)):
        for backend in backends:
            one_generation(backend, number, asked, outcome)
        print(f"    generation {number + 1} of servers is done", flush=True)
    return outcome


def one_generation(backend: str, number: int, asked: Options, outcome: Outcome) -> None:
    """Starts both servers on one back end, and measures all of its cells."""
    with duel.both_serving(asked, number, SCRIPT, backend) as servers:
        for size, n in [(size, n) for size in duel.SIZES for n in asked.pick(CROWDS, CROWDS[1:])]:
            outcome.setdefault((backend, size, n), []).append(duel.messages(servers, size, n, number))
        samples = duel.coming_and_going(servers, CHURN_TURN, AT_ONCE, number)
        outcome.setdefault((backend, CHURN, AT_ONCE), []).append(samples)


def bars_of(outcome: Outcome) -> Iterator[Bar]:
    """Judges each back end by all of its cells of messages together."""
    for backend in BACKENDS:
        cells = [each for cell, each in outcome.items() if cell[0] == backend and cell[1] != CHURN]
        if cells:
            yield duel.together_bar(f"anyio on {backend}, messages per second", cells, LIMIT)


def section_of(outcome: Outcome) -> Section:
    """Makes the table."""
    n_generations = len(next(iter(outcome.values())))
    notes = [
        f"Medians of {n_generations} generations of servers, in each two turns of {duel.TURN:g} s a side.",
        f"Connections are made, used for one message, and closed, {AT_ONCE} at once; in turns of {CHURN_TURN:g} s.",
        duel.ABOUT_CPU,
        "Each bar judges all cells of messages of a back end together.",
    ]
    rows = [
        duel.row_of(f"{backend}, {what}, {n:,}", generations, LIMIT)
        for (backend, what, n), generations in outcome.items()
    ]
    columns = duel.columns_of("back end, what, connections", "per second", LIMIT)
    return Section("Guarded streams of anyio", notes, columns, rows, list(bars_of(outcome)))


def main() -> None:
    """Measures all, prints it and writes results/wrapper_anyio.json."""
    asked = options()
    packages = [name for name in ("anyio", "trio", "uvloop") if importlib.util.find_spec(name)]
    finish("wrapper_anyio", [section_of(measure(asked))], asked, packages)


if __name__ == "__main__":
    main()
