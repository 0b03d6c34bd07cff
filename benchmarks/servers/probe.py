"""Times accept(), close() and connect() from within: `probe.py`, prints its port, then obeys lines of standard input.

`accept N` takes N connections that wait in the queue and closes them; `connect N PORT` makes N connections and closes
them. Each prints the microseconds for one connection: of the call, and of its close().
"""

import gc
import socket
import sys
import time
from collections.abc import Callable


def timed(act: Callable[[], socket.socket], n_sockets: int) -> tuple[float, float]:
    """Makes sockets and closes them; gives the microseconds of each step for one socket."""
    socks: list[socket.socket] = []
    started = time.perf_counter()
    for _ in range(n_sockets):
        socks.append(act())  # noqa: PERF401 - what is timed looks like a server, not like a comprehension
    made = time.perf_counter()
    for sock in socks:
        sock.close()
    closed = time.perf_counter()
    return (made - started) / n_sockets * 1e6, (closed - made) / n_sockets * 1e6


def main() -> None:
    """Obeys until standard input ends."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    print(listener.getsockname()[1], flush=True)
    for line in sys.stdin:
        verb, n_sockets, *port = line.split()
        gc.collect()
        if verb == "accept":
            print(*timed(lambda: listener.accept()[0], int(n_sockets)), flush=True)
        else:
            address = ("127.0.0.1", int(port[0]))
            print(*timed(lambda: socket.create_connection(address), int(n_sockets)), flush=True)  # noqa: B023 - called at once


if __name__ == "__main__":
    main()
