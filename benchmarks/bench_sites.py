"""What it costs to note where a connection is opened: `sites.capture` against other ways to read the stack."""

import sys
import traceback
from collections.abc import Callable
from functools import partial
from itertools import repeat

from harness import Contender, Times, at_least_faster, measure, rounds_wanted, save, timing_section

from sockguard._engine import sites

ROUNDS = 41
N_CALLS = 10_000
DEPTH = 8
"""Frames that are read by all."""
DEEP = 20
"""Calls below which a connection is opened by a library, so that more than DEPTH frames must be read."""

table: dict[object, object] = {}


def loop_over_addresses() -> object:
    """Reads the frames in a loop; a frame is the address of its instruction, as in `sites.capture`."""
    frame, key = sys._getframe(), []  # noqa: SLF001 - what is compared
    for _ in range(DEPTH):
        key.append(id(frame.f_code) + frame.f_lasti)
        if frame.f_back is None:
            break
        frame = frame.f_back
    return table.setdefault(tuple(key), key)


def loop_over_lines() -> object:
    """Reads code and line; the line is looked for in a table of the code object each time."""
    frame, key = sys._getframe(), []  # noqa: SLF001
    for _ in range(DEPTH):
        key.append((id(frame.f_code), frame.f_lineno))
        if frame.f_back is None:
            break
        frame = frame.f_back
    return table.setdefault(tuple(key), key)


def loop_hashing_code() -> object:
    """Reads code and instruction, and lets the dictionary hash the code objects."""
    frame, key = sys._getframe(), []  # noqa: SLF001
    for _ in range(DEPTH):
        key.append((frame.f_code, frame.f_lasti))
        if frame.f_back is None:
            break
        frame = frame.f_back
    return table.setdefault(tuple(key), key)


def extract_stack() -> object:
    """Asks the standard library."""
    return traceback.extract_stack(limit=DEPTH)


def call_often(function: Callable[[], object], depth: int) -> None:
    """Calls a function below some others: through `descend` each time, as fresh frames cost more than old ones."""
    for _ in repeat(None, N_CALLS):
        descend(function, depth)


def descend(function: Callable[[], object], depth: int) -> object:
    """Calls itself `depth` times, then the function."""
    return descend(function, depth - 1) if depth else function()


def measure_at(depth: int, functions: dict[str, Callable[[], object]]) -> Times:
    """Measures how long `N_CALLS` calls take."""
    return measure([Contender(n, partial(call_often, f, depth)) for n, f in functions.items()], rounds_wanted(ROUNDS))


def main() -> None:
    """Measures, prints it and writes results/sites.json."""
    ways = {
        "sites.capture": sites.capture,
        "loop, addresses": loop_over_addresses,
        "loop, lines": loop_over_lines,
        "loop, code hashed": loop_hashing_code,
        "traceback.extract_stack": extract_stack,
        "calls alone": lambda: None,
    }
    assert sites.capture() is not sites.capture(), "two lines are two sites"
    times = measure_at(DEPTH, ways)
    deep = measure_at(DEEP, {"sites.capture": sites.capture, "calls alone": lambda: None})
    size = sites.table_size()
    assert size < DEPTH, f"{size} sites for one stack of {N_CALLS} calls"
    first, *_, slow, _ = ways
    note = f"{N_CALLS:,} stacks; a millisecond is 0.1 us for each. Take off the calls that lead there, in the last row."
    save(
        "sites",
        [
            timing_section(
                f"Noting a creation site, {DEPTH} frames",
                [note],
                times,
                first,
                [at_least_faster(times, first, slow, 5)],
            ),
            timing_section(f"The same below {DEEP} calls", [note], deep, first),
        ],
    )


if __name__ == "__main__":
    main()
