"""What does a GuardedSocket cost, against the bare one? Echo servers with a blocking thread for each connection.

The servers differ in nothing but their listener: `sockguard.create_server` in one, `socket.create_server` in the
other.
"""

import time

import duel
from harness import Section
from ratios import Options, finish, options

SCRIPT = "echo_wrapper.py"
CROWDS = (1, 10, 100)
LIMIT, LIMIT_US = 0.97, 4.0
SETTLE = 1.0
"""Seconds from a server's start to its first turn: a guard begins with looks round that one turn would get all of."""
N_GENERATIONS = 24

Messages = dict[tuple[str, int], duel.Generations]


def measure(asked: Options) -> tuple[Messages, duel.Calls]:
    """Measures all, generation by generation."""
    messages: Messages = {}
    calls = duel.Calls("accept", n_rounds=4, n_sockets=500)
    for number in range(asked.pick(N_GENERATIONS, 4)):
        with duel.both_serving(asked, number, SCRIPT) as servers:
            time.sleep(SETTLE)
            for size, n in [(size, n) for size in duel.SIZES for n in asked.pick(CROWDS, CROWDS[:1])]:
                messages.setdefault((size, n), []).append(duel.messages(servers, size, n, number))
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
    ]
    rows = [duel.row_of(f"{size}, {n:,}", generations, LIMIT) for (size, n), generations in messages.items()]
    bar = duel.together_bar("GuardedSocket, messages per second", cells, LIMIT)
    columns = duel.columns_of("message, connections", "messages/s", LIMIT)
    return Section("Messages through a GuardedSocket", notes, columns, rows, [bar])


def main() -> None:
    """Measures all, prints it and writes results/wrapper_socket.json."""
    asked = options()
    messages, calls = measure(asked)
    of_calls = calls.section("Calls of a GuardedSocket", ("accept", "close"), "accept(): a GuardedSocket", LIMIT_US)
    finish("wrapper_socket", [messages_section(messages), of_calls], asked)


if __name__ == "__main__":
    main()
