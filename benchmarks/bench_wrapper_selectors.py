"""What does a GuardedSelector cost, against the bare one? Echo servers of one loop, and the call of `register()`.

The servers differ in nothing but their selector: `sockguard.GuardedSelector` in one, `selectors.DefaultSelector` in the
other. The guard has no thread here: what it does in its own time, it does in the loop, and so it is in the figures.
"""

import duel
from harness import Section
from ratios import Options, finish, options

SCRIPT = "echo_selector_wrapper.py"
CROWDS = (1, 100, 1000)
LIMIT, LIMIT_US = 0.97, 4.0
WARM_UP = 0.3
"""Longer than a tick of the guard, which takes the new connections in, in this very loop."""
N_GENERATIONS = 24

Messages = dict[tuple[str, int], duel.Generations]


def measure(asked: Options) -> tuple[Messages, duel.Calls]:
    """Measures all, generation by generation."""
    messages: Messages = {}
    calls = duel.Calls("register", n_rounds=4, n_sockets=500)
    for number in range(asked.pick(N_GENERATIONS, 4)):
        with duel.both_serving(asked, number, SCRIPT) as servers:
            for size, n in [(size, n) for size in duel.SIZES for n in asked.pick(CROWDS, CROWDS[:2])]:
                messages.setdefault((size, n), []).append(duel.messages(servers, size, n, number, WARM_UP))
            calls.time_calls(servers)
        print(f"    generation {number + 1} of servers is done", flush=True)
    return messages, calls


def messages_section(messages: Messages) -> Section:
    """Makes the table of messages."""
    cells = list(messages.values())
    by_cpu = duel.ratios_of(cells).by_cpu
    notes = [
        f"Medians of {len(cells[0])} generations of servers, in each two turns of {duel.TURN:g} s a side.",
        duel.ABOUT_CPU,
        f"By the server's CPU time, all together: {by_cpu.median:.3f} (95 %: {by_cpu.low:.3f} to {by_cpu.high:.3f}).",
        "What it costs to take connections in, once for each, is in `bench_guard_churn.py`.",
        "With one connection each message is a round of the loop of its own, which is the worst case.",
    ]
    rows = [duel.row_of(f"{size}, {n:,}", generations, LIMIT) for (size, n), generations in messages.items()]
    bar = duel.together_bar("GuardedSelector, messages per second", cells, LIMIT)
    columns = duel.columns_of("message, connections", "messages/s", LIMIT)
    return Section("Messages through a GuardedSelector", notes, columns, rows, [bar])


def main() -> None:
    """Measures all, prints it and writes results/wrapper_selectors.json."""
    asked = options()
    messages, calls = measure(asked)
    names = ("register", "unregister")
    of_calls = calls.section("Calls of a GuardedSelector", names, "register(): a GuardedSelector", LIMIT_US)
    finish("wrapper_selectors", [messages_section(messages), of_calls], asked)


if __name__ == "__main__":
    main()
