"""What does the guard add to accept(), connect() and close()? Timed within the process that calls them."""

import contextlib
import socket
import statistics

from harness import Section
from load import connections
from ratios import Options, Ratio, finish, options, ratio_of
from sides import BARE, GUARDED, Server, guarded_unless, serving

VERBS = ("accept", "close what was accepted", "connect", "close what was connected")
N_GENERATIONS = 12
N_ROUNDS = 6
"""Rounds in a generation, each of N_SOCKETS connections, in the order A B B A."""
N_SOCKETS = 500

Times = dict[str, dict[str, list[list[float]]]]
"""Verb -> side -> generations -> microseconds for each connection."""


def accepted(server: Server) -> list[float]:
    """Lets a server accept and close what waits in its queue; gives the microseconds of both."""
    with connections(server.address, N_SOCKETS):
        return [float(word) for word in server.ask(f"accept {N_SOCKETS}").split()]


def connected(server: Server) -> list[float]:
    """Lets a server connect to us and close; gives the microseconds of both."""
    with socket.create_server(("127.0.0.1", 0), backlog=2 * N_SOCKETS) as listener:
        return [float(word) for word in server.ask(f"connect {N_SOCKETS} {listener.getsockname()[1]}").split()]


def measure(asked: Options) -> Times:
    """Measures all verbs, generation by generation."""
    sides = [BARE, guarded_unless(against_itself=asked.against_itself)]
    times: Times = {verb: {side.name: [] for side in sides} for verb in VERBS}
    for _ in range(asked.pick(N_GENERATIONS, 3)):
        for by_side in times.values():
            for generations in by_side.values():
                generations.append([])
        with contextlib.ExitStack() as stack:
            servers = {side.name: stack.enter_context(serving(side, "probe.py")) for side in sides}
            for number in range(-1, N_ROUNDS):
                one_round(servers, number, times)
    return times


def one_round(servers: dict[str, Server], number: int, times: Times) -> None:
    """Asks both sides for everything; the round before the first does not count."""
    for name in sorted(servers, reverse=bool(number % 2)):
        answers = accepted(servers[name]) + connected(servers[name])
        for verb, microseconds in zip(VERBS, answers, strict=True):
            if number >= 0:
                times[verb][name][-1].append(microseconds)


def more_of(by_side: dict[str, list[list[float]]]) -> Ratio:
    """Tells how many microseconds the guard adds."""
    both = zip(by_side[GUARDED], by_side[BARE.name], strict=True)
    return ratio_of([[a - b for a, b in zip(ours, theirs, strict=True)] for ours, theirs in both])


def section_of(times: Times) -> Section:
    """Makes the table."""
    rows: list[list[str | float]] = []
    for verb, by_side in times.items():
        medians = (statistics.median(us for each in by_side[name] for us in each) for name in (BARE.name, GUARDED))
        rows.append([verb, *medians, *more_of(by_side)])
    n_generations = len(times[VERBS[0]][BARE.name])
    notes = [
        f"Microseconds for each connection, of {N_SOCKETS} in a row.",
        f"Medians of {n_generations} generations of {N_ROUNDS} rounds each; what is more, round by round.",
        "What the guard's thread does later is not in it, but in the CPU time of `bench_guard_churn.py`.",
    ]
    return Section("Calls", notes, ["us", "bare", "guarded", "more", "95 %: from", "to"], rows)


def main() -> None:
    """Measures all, prints it and writes results/guard_calls.json."""
    asked = options()
    finish("guard_calls", [section_of(measure(asked))], asked)


if __name__ == "__main__":
    main()
