"""Many quiet connections to one server: a process that holds their clients' ends.

Run as a script with a port, an address, a number, a rhythm (0: none) and perhaps the word `greet`, it connects, prints
`ready`, and keeps all until its standard input ends. With a rhythm, each connection says a byte and hears it again
every so many seconds. With `greet`, each does so once before the next one connects, so that they never come in bursts.
"""

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

__all__ = ["crowd"]

PATIENCE = 60.0


@contextlib.contextmanager
def crowd(address: tuple[str, int], n_connections: int, every: float = 0, *, greets: bool = False) -> Iterator[None]:
    """Holds connections in a child process."""
    host, port = address
    words = [str(port), host, str(n_connections), str(every), *(["greet"] if greets else [])]
    command = [sys.executable, __file__, *words]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as child:
        try:
            assert child.stdin and child.stdout  # noqa: PT018 - for the type checker: both are pipes
            if child.stdout.readline() != "ready\n":
                msg = f"no crowd of {n_connections}: the child ended with status {child.wait()}"
                raise RuntimeError(msg)
            yield
            assert child.poll() is None, "a connection of the crowd has failed"
        finally:
            child.kill()  # by its pid, and only if it has not ended


def connect(address: tuple[str, int], *, greets: bool) -> socket.socket:
    """Connects, and with a greeting waits until the server has taken the connection and answered."""
    sock = socket.create_connection(address, timeout=PATIENCE)
    if greets:
        sock.sendall(b"x")
        assert sock.recv(1) == b"x"
    return sock


def keep_talking(socks: list[socket.socket], every: float) -> None:
    """Lets each connection say a byte every so many seconds; ends with an error if one does not answer."""
    while True:
        started = time.monotonic()
        for number, sock in enumerate(socks):
            sock.sendall(b"x")
            assert sock.recv(1) == b"x"
            ahead = started + number * every / len(socks) - time.monotonic()
            if ahead > 0:
                time.sleep(ahead)


def main() -> None:
    """Connects, and holds the connections."""
    port, host, n_connections, every = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
    greets = "greet" in sys.argv[5:]
    socks = [connect((host, port), greets=greets) for _ in range(n_connections)]
    print("ready", flush=True)
    if every:
        keep_talking(socks, every)
    sys.stdin.read()


if __name__ == "__main__":
    main()
