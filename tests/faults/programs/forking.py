"""A server that forks for each connection: forking.py children|family|mixin [--close-listener].

`children`: three children keep the connection, the parent closes it. `family`: the parent
keeps it as well. `mixin`: socketserver.ForkingTCPServer, whose one child is busy elsewhere.
It prints its port, and for each connection the pids of the children, with `parent` first.
"""

import os
import socket
import socketserver
import sys

mode, *options = sys.argv[1:]
until_parent_ends, parents_end = os.pipe()


def child_forever(listener: socket.socket) -> None:
    """Keeps what the child inherited, until the parent is gone and nobody holds the pipe's other end."""
    os.close(parents_end)
    if "--close-listener" in options:
        listener.close()
    os.read(until_parent_ends, 1)
    os._exit(0)


def fork_three() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        connections = []
        while True:
            connection, _ = listener.accept()
            children = []
            for _ in range(3):
                children.append(os.fork())
                if not children[-1]:
                    child_forever(listener)
            connections.append(connection)
            if mode == "children":
                connection.close()
            print("parent", *children, flush=True)


class BusyHandler(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        child_forever(self.server.socket)


class Server(socketserver.ForkingTCPServer):
    def process_request(self, request, client_address) -> None:
        super().process_request(request, client_address)
        print("parent", *self.active_children, flush=True)


if mode == "mixin":
    with Server(("127.0.0.1", 0), BusyHandler) as server:
        print(server.server_address[1], flush=True)
        server.serve_forever()
else:
    fork_three()
