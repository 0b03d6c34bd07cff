"""A relay between a client and a real server, which does on demand what servers do when they go."""

import contextlib
import socket
import threading
from typing import Self

from loopback import reset

__all__ = ["Relay"]


class Relay:
    """Listens on a port of its own and passes on what comes, both ways; as a context manager it ends itself.

    Args:
        port: Of the server.
    """

    def __init__(self, port: int) -> None:
        self._server_port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._clients: list[socket.socket] = []
        self._servers: list[socket.socket] = []
        self._readers: dict[socket.socket, threading.Thread] = {}
        self.is_silent = False
        """Passes nothing on any more, and closes nothing: as a host whose cable is cut."""
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for sock in (self._listener, *self._clients, *self._servers):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)  # wakes its thread
            sock.close()

    def hang_up(self) -> None:
        """Closes the last connection, with a FIN."""
        self._clients[-1].shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Closes the last connection, with a reset.

        The kernel does that only when no thread is inside of a call on it any more.
        """
        client = self._clients.pop()
        client.shutdown(socket.SHUT_RD)  # tells the peer nothing, and wakes our thread
        self._readers[client].join()
        reset(client)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._server_port))
                self._clients.append(client)
                self._servers.append(server)
                for source, target in ((client, server), (server, client)):
                    self._readers[source] = threading.Thread(target=self._pass_on, args=(source, target), daemon=True)
                    self._readers[source].start()

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if not self.is_silent:
                    target.sendall(data)
