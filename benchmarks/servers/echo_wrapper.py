"""Echo with a blocking thread for each connection, bare or by GuardedSocket: `echo_wrapper.py [--guarded]`.

It prints its port, then obeys lines of standard input: `port` prints the port of a second listener, and
`accept N` takes N connections from the queue of that and closes them; it prints the microseconds of
accept() and of close() for one of them.
"""

import gc
import socket
import socketserver
import sys
import threading
import time

IS_GUARDED = "--guarded" in sys.argv

if IS_GUARDED:
    import sockguard

    create_server = sockguard.create_server
else:
    create_server = socket.create_server  # type: ignore[assignment]


class Echo(socketserver.BaseRequestHandler):
    """Echoes until the client has closed."""

    def handle(self) -> None:
        """Serves one connection."""
        try:
            while data := self.request.recv(65536):
                self.request.sendall(data)
        except ConnectionResetError:
            pass


class Server(socketserver.ThreadingTCPServer):
    """Takes a thousand connections at once, by a listener that gives plain or guarded sockets."""

    daemon_threads = True

    def server_activate(self) -> None:
        """Listens."""
        self.socket.close()
        self.socket = create_server(("127.0.0.1", 0), backlog=4096)
        self.server_address = self.socket.getsockname()


def accept_and_close(listener: socket.socket, n_sockets: int) -> tuple[float, float]:
    """Takes connections and closes them; gives the microseconds of each step for one socket."""
    gc.collect()
    socks: list[socket.socket] = []
    started = time.perf_counter()
    for _ in range(n_sockets):
        socks.append(listener.accept()[0])  # noqa: PERF401 - what is timed looks like a server, not like a comprehension
    made = time.perf_counter()
    for sock in socks:
        sock.close()
    closed = time.perf_counter()
    return (made - started) / n_sockets * 1e6, (closed - made) / n_sockets * 1e6


def obey() -> None:
    """Obeys until standard input ends."""
    listener = create_server(("127.0.0.1", 0), backlog=4096)
    for line in sys.stdin:
        verb, *number = line.split()
        if verb == "accept":
            print(*accept_and_close(listener, int(number[0])), flush=True)
        else:
            print(listener.getsockname()[1], flush=True)


if __name__ == "__main__":
    with Server(("127.0.0.1", 0), Echo) as server:
        print(server.server_address[1], flush=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        obey()
