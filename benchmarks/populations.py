"""Many TCP sockets, some of them sick: what the benchmarks look at.

A process holds both ends of its connections, so `n` sockets are `n / 2` connections, and
one limit of 20,000 descriptors bounds them. In a sick connection the client has hung up
by shutdown(SHUT_WR): the server's end is in CLOSE_WAIT, the client's stays in FIN_WAIT2.
Had the client closed instead, the kernel would forget its end after `tcp_fin_timeout`,
60 s, and the population would shrink while it is measured.

Run as a script, with three numbers as arguments (sockets, sick ones, and connections that
hung up before they were accepted), it builds that population, prints `ready` and keeps it
until its standard input ends.
"""

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

__all__ = ["Population", "child_population", "hold", "populate"]

CLOSE_WAIT = 8
PER_HOST = 500
"""Connections for each address of 127.0.0.0/8: listeners, clients and their hosts are spread."""
BACKLOG = 64
PATIENCE = 60.0
"""Seconds in which a population must be there, or in which a child must end."""


class Population(NamedTuple):
    """Connections that are held, and those of the servers' ends whose client hung up."""

    listeners: list[socket.socket]
    clients: list[socket.socket]
    servers: list[socket.socket]
    sick: list[socket.socket]

    def close(self) -> None:
        """Closes all sockets, with a reset so that no TIME_WAIT is left for the next measurement."""
        for sock in (*self.clients, *self.servers):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            sock.close()
        for sock in self.listeners:
            sock.close()


def populate(n_sockets: int, n_sick: int) -> Population:
    """Connects `n_sockets / 2` pairs; the clients of `n_sick` of them, evenly spread, hang up."""
    n_pairs = n_sockets // 2
    people = Population([], [], [], [])
    for number in range(n_pairs):
        if number % PER_HOST == 0:
            host = f"127.0.{number // PER_HOST}.1"
            listener = socket.create_server((host, 0), backlog=BACKLOG)
            people.listeners.append(listener)
        client = socket.create_connection(listener.getsockname(), source_address=(host[:-1] + "2", 0))
        people.clients.append(client)
        people.servers.append(listener.accept()[0])
    for place in range(n_sick):
        number = place * n_pairs // n_sick
        people.clients[number].shutdown(socket.SHUT_WR)
        people.sick.append(people.servers[number])
    _wait_for_close_wait(people.sick)
    return people


def _wait_for_close_wait(socks: Sequence[socket.socket]) -> None:
    deadline = time.monotonic() + PATIENCE
    while any(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] != CLOSE_WAIT for sock in socks):
        if time.monotonic() > deadline:
            raise TimeoutError("not all sick connections have reached CLOSE_WAIT")
        time.sleep(0.001)


@contextlib.contextmanager
def hold(n_sockets: int, n_sick: int) -> Iterator[Population]:
    """Holds a population in this process for the time of a `with` block."""
    people = populate(n_sockets, n_sick)
    try:
        yield people
    finally:
        people.close()


@contextlib.contextmanager
def child_population(n_sockets: int, n_sick: int, n_queued: int = 0) -> Iterator[int]:
    """Holds a population in a child process; gives its pid."""
    command = [sys.executable, __file__, *map(str, (n_sockets, n_sick, n_queued))]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as child:
        try:
            assert child.stdin and child.stdout  # noqa: PT018 - for the type checker: both are pipes
            if child.stdout.readline() != "ready\n":
                msg = f"no population of {n_sockets} sockets: the child ended with status {child.wait()}"
                raise RuntimeError(msg)
            yield child.pid
            child.stdin.close()
            child.wait(PATIENCE)
        finally:
            child.kill()  # by its pid, and only if it has not ended


def main() -> None:
    """Holds a population until standard input ends."""
    n_sockets, n_sick, n_queued = map(int, sys.argv[1:])
    with hold(n_sockets, n_sick), socket.create_server(("127.0.0.1", 0), backlog=BACKLOG) as listener:
        for _ in range(n_queued):
            socket.create_connection(listener.getsockname()).close()
        print("ready", flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
