"""What does a GuardedSelector cost, against the bare one? Echo servers of one loop, and the call of `register()`.

The servers differ in nothing but their selector: `sockguard.GuardedSelector` in one, `selectors.DefaultSelector` in the
other. What is measured of messages and how is as in `bench_guard_data_path.py`. The guard has no thread here: what it
does in its own time, it does in the loop, and so it is in the figures.
"""

import contextlib
import statistics
from itertools import chain

from harness import Bar, Section
from load import connections, ping_pong
from ratios import Options, Ratio, Sample, finish, median_verdict, options, pairs, ratio_of, take_turns
from sides import BARE, GUARDED, Server, Side, serving

SCRIPT = "echo_selector_wrapper.py"
SIZES = {"64 B": 64, "16 KiB": 16384}
CROWDS = (1, 100, 1000)
LIMIT, LIMIT_US = 0.97, 4.0
TURN = 0.06
"""Seconds, as in `bench_guard_data_path.py`."""
WARM_UP = 0.3
"""Longer than a tick of the guard, which takes the new connections in, in this very loop."""
N_GENERATIONS = 24
N_ROUNDS, N_SOCKETS = 4, 500
"""Rounds of register() in a generation, and connections in each."""

Cell = tuple[str, int]
Samples = dict[str, list[Sample]]
Messages = dict[Cell, list[Samples]]
Calls = dict[str, list[list[tuple[float, float]]]]
"""Side -> generations -> microseconds of register() and of unregister(), for one connection."""


def measure(asked: Options) -> tuple[Messages, Calls]:
    """Measures all, generation by generation."""
    sides = [BARE, Side(GUARDED, (), () if asked.against_itself else ("--guarded",))]
    messages: Messages = {}
    calls: Calls = {side.name: [] for side in sides}
    for number in range(asked.pick(N_GENERATIONS, 4)):
        with contextlib.ExitStack() as stack:
            order = sides if number % 2 else sides[::-1]
            servers = {side.name: stack.enter_context(serving(side, SCRIPT)) for side in order}
            for size, n_bytes in SIZES.items():
                for n_connections in asked.pick(CROWDS, CROWDS[:2]):
                    samples = one_cell(servers, n_bytes, n_connections, number)
                    messages.setdefault((size, n_connections), []).append(samples)
            one_generation_of_calls(servers, calls)
        print(f"    generation {number + 1} of servers is done", flush=True)
    return messages, calls


def one_cell(servers: dict[str, Server], size: int, n_connections: int, number: int) -> Samples:
    """Connects to both sides, and lets them take turns."""
    payload = b"x" * size
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


def one_generation_of_calls(servers: dict[str, Server], calls: Calls) -> None:
    """Has both sides register and unregister; the first round does not count."""
    for times in calls.values():
        times.append([])
    ports = {name: int(server.ask("port")) for name, server in servers.items()}
    for number in range(-1, N_ROUNDS):
        for name in sorted(servers, reverse=bool(number % 2)):
            with connections(("127.0.0.1", ports[name]), N_SOCKETS):
                first, second = servers[name].ask(f"register {N_SOCKETS}").split()
            if number >= 0:
                calls[name][-1].append((float(first), float(second)))


def messages_section(messages: Messages) -> Section:
    """Makes the table of messages."""
    rows: list[list[str | float]] = []
    for (size, n_connections), generations in messages.items():
        bare = [sample for samples in generations for sample in samples[BARE.name]]
        ratio, by_cpu = ratios_of([generations])
        medians = (statistics.median(s.per_second for s in bare), statistics.median(s.cpu_us for s in bare))
        rows.append([f"{size}, {n_connections:,}", *medians, *ratio, median_verdict(ratio, LIMIT), by_cpu.median])
    together, by_cpu = ratios_of(list(messages.values()))
    promise = f"messages per second: GuardedSelector at least {LIMIT:g} of bare"
    notes = [
        f"Medians of {len(next(iter(messages.values())))} generations of servers, in each two turns of {TURN:g} s.",
        "Server and client share one CPU, so the client's time is in the ratio; by CPU time: of the server alone.",
        f"By the server's CPU time, all together: {by_cpu.median:.3f} (95 %: {by_cpu.low:.3f} to {by_cpu.high:.3f}).",
        "What it costs to take connections in, once for each, is in `bench_guard_churn.py`.",
        "With one connection each message is a round of the loop of its own, which is the worst case.",
    ]
    columns = ["message, connections", "bare, messages/s", "bare, us of CPU", "guarded / bare", "95 %: from", "to"]
    columns += [f"reaches {LIMIT:g}", "by CPU time"]
    bar = together.bar(promise, LIMIT)._replace(is_met=median_verdict(together, LIMIT) == "met")
    return Section("Messages through a GuardedSelector", notes, columns, rows, [bar])


def ratios_of(cells: list[list[Samples]]) -> tuple[Ratio, Ratio]:
    """Compares the sides in messages per second, and per second of CPU time, over some cells together."""

    def ratio(field: str) -> Ratio:
        each = [[pairs(samples, GUARDED, BARE.name, field) for samples in generations] for generations in cells]
        return ratio_of([list(chain(*same)) for same in zip(*each, strict=True)])

    return ratio("per_second"), ratio("per_cpu_second")


def calls_section(calls: Calls) -> Section:
    """Makes the table of calls."""
    rows: list[list[str | float]] = []
    more: list[Ratio] = []
    for at, verb in enumerate(("register", "unregister")):
        times = {name: [[pair[at] for pair in each] for each in generations] for name, generations in calls.items()}
        medians = [statistics.median(chain(*times[name])) for name in (BARE.name, GUARDED)]
        both = zip(times[GUARDED], times[BARE.name], strict=True)
        more.append(ratio_of([[a - b for a, b in zip(ours, theirs, strict=True)] for ours, theirs in both]))
        rows.append([verb, *medians, *more[-1]])
    first = more[0]
    bar = Bar(
        f"register(): a GuardedSelector takes at most {LIMIT_US:g} us more", *first, " us", first.high <= LIMIT_US
    )
    notes = [f"Microseconds for each connection, of {N_SOCKETS} in a row, in {N_ROUNDS} rounds a generation."]
    columns = ["us", "bare", "guarded", "more", "95 %: from", "to"]
    return Section("Calls of a GuardedSelector", notes, columns, rows, [bar])


def main() -> None:
    """Measures all, prints it and writes results/wrapper_selectors.json."""
    asked = options()
    messages, calls = measure(asked)
    finish("wrapper_selectors", [messages_section(messages), calls_section(calls)], asked)


if __name__ == "__main__":
    main()
