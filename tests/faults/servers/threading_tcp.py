"""A server of the standard library's socketserver: ThreadingTCPServer, or ForkingTCPServer (forking_tcp.py)."""

import contextlib
import socket
import socketserver
import ssl

import blocking
import common

__all__ = ["Mixin", "run"]


class Handler(socketserver.BaseRequestHandler):
    """Serves one connection; with TLS the handshake is made here, in the connection's own thread."""

    server: "Mixin"

    def handle(self) -> None:
        """Leaves closing to socketserver, which also closes when we fail."""
        with contextlib.suppress(OSError):
            if not self.server.context:
                blocking.serve(self.request)
                return
            with self.server.context.wrap_socket(self.request, server_side=True) as sock:
                blocking.serve(sock)


class Mixin(socketserver.TCPServer):
    """What both kinds of server need besides the standard library's."""

    context: ssl.SSLContext | None = None
    daemon_threads = True

    def shutdown_request(self, request: socket.socket) -> None:
        """Closes, unless the program has kept the connection."""
        if request not in common.KEPT:
            super().shutdown_request(request)


def run(server_class: type[Mixin]) -> None:
    """Serves for ever."""
    options = common.start()
    server_class.context = common.tls_context(options)
    server_class.max_children = options.children
    with server_class(("127.0.0.1", 0), Handler, bind_and_activate=False) as server:
        server.socket.close()
        server.socket = common.listen(options)
        server.serve_forever(poll_interval=0.1)


class Server(socketserver.ThreadingMixIn, Mixin):
    """A thread for each connection."""


if __name__ == "__main__":
    run(Server)
