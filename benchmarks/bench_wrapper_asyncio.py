"""What does sockguard.aio cost, against asyncio's own functions? Echo servers of streams and of protocols.

The servers differ in nothing but the function that starts them. Besides messages, connections that come and go are
measured, as in `bench_guard_churn.py`.
"""

import statistics
from collections.abc import Iterator

import duel
from harness import Bar, Section
from ratios import Options, finish, options
from sides import BARE, GUARDED

SCRIPT = "echo_aio.py"
KINDS = {
    "asyncio streams": (),
    "asyncio protocol": ("--protocol",),
    "uvloop streams": ("--uvloop",),
    "uvloop protocol": ("--uvloop", "--protocol"),
}
CROWDS = (1, 100)
LIMIT = 0.98
CHURN = 0.15
"""Seconds of a turn of connections that come and go."""
N_GENERATIONS = 24
N_AT_ONCE = 16
"""Connections under way at a time, of those that come and go."""

Messages = dict[tuple[str, str, int], duel.Generations]
Churn = dict[str, duel.Generations]


def measure(asked: Options) -> tuple[Messages, Churn]:
    """Measures all, generation by generation."""
    messages: Messages = {}
    coming: Churn = {}
    for number in range(asked.pick(N_GENERATIONS, 4)):
        for kind, words in KINDS.items():
            with duel.both_serving(asked, number, SCRIPT, *words) as servers:
                coming.setdefault(kind, []).append(duel.coming_and_going(servers, CHURN, N_AT_ONCE, number))
                # Messages last, as the guard makes itself ready in its first second.
                for size, n in [(size, n) for size in duel.SIZES for n in asked.pick(CROWDS, CROWDS[1:])]:
                    messages.setdefault((kind, size, n), []).append(duel.messages(servers, size, n, number))
        print(f"    generation {number + 1} of servers is done", flush=True)
    return messages, coming


def messages_section(messages: Messages) -> Section:
    """Makes the table of messages."""
    rows = [
        duel.row_of(f"{kind}, {size}, {n:,}", generations, LIMIT) for (kind, size, n), generations in messages.items()
    ]
    n_generations = len(next(iter(messages.values())))
    notes = [
        f"Medians of {n_generations} generations of servers, in each two turns of {duel.TURN:g} s a side.",
        "`guarded` is `sockguard.aio`, with a policy of its own; `bare` is asyncio's function of the same name.",
        "Connections came and went before, for a second: by then the guard has made itself ready.",
        duel.ABOUT_CPU,
        "The last lines judge all cells of a kind together.",
    ]
    columns = duel.columns_of("kind, message, connections", "messages/s", LIMIT)
    return Section("Messages by sockguard.aio", notes, columns, rows, list(bars_of(messages)))


def bars_of(messages: Messages) -> Iterator[Bar]:
    """Judges each kind by all of its cells together, by time and by CPU time."""
    for kind in KINDS:
        cells = [generations for cell, generations in messages.items() if cell[0] == kind]
        yield duel.together_bar(f"{kind}, messages per second", cells, LIMIT)
        yield duel.together_bar(f"{kind}, messages per second of the server's CPU time", cells, LIMIT, by_cpu=True)


def churn_section(coming: Churn) -> Section:
    """Makes the table of connections that come and go."""
    rows: list[list[str | float]] = []
    for kind, generations in coming.items():
        ratio, by_cpu = duel.ratios_of([generations])
        more = [
            guarded.cpu_us - bare.cpu_us
            for samples in generations
            for guarded, bare in zip(samples[GUARDED], samples[BARE.name], strict=True)
        ]
        rows.append([kind, *duel.medians_of(generations), *ratio, by_cpu.median, statistics.median(more)])
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
