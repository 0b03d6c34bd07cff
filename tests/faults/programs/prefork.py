"""A server whose two workers, forked before, accept at one listener and leak.

It prints its port and the pids of the workers.
"""

import contextlib
import os
import socket

until_parent_ends, parents_end = os.pipe()
listener = socket.create_server(("127.0.0.1", 0))
workers = []


def work() -> None:
    os.close(parents_end)
    connections = []
    listener.settimeout(0.01)
    os.set_blocking(until_parent_ends, False)
    while True:
        with contextlib.suppress(TimeoutError):
            connections.append(listener.accept())
        try:
            os.read(until_parent_ends, 1)
        except BlockingIOError:
            continue
        os._exit(0)


for _ in range(2):
    workers.append(os.fork())
    if not workers[-1]:
        work()
print(listener.getsockname()[1], flush=True)
print(*workers, flush=True)
os.waitpid(workers[0], 0)
