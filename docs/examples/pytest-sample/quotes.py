"""A quote server and its client: what the tests beside it test."""

import socket
import threading

QUOTES = {"ADA": b"42.5", "BOB": b"17.0"}


class QuoteServer:
    """Answers each line, a name, with its quote; a thread for each client."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = self.listener.getsockname()
        self.subscribers = []
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return  # stopped
            threading.Thread(target=self.answer, args=(connection,), daemon=True).start()

    def answer(self, connection):
        with connection.makefile("rb") as lines:
            for line in lines:
                name = line.decode().strip()
                if name == "SUBSCRIBE":
                    self.subscribers.append(connection)
                    return  # leak 3: whoever subscribes is never closed, not even when it has hung up
                connection.sendall(QUOTES.get(name, b"?") + b"\n")
        connection.close()

    def stop(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


def ask(address, name):
    """Asks for one quote."""
    connection = socket.create_connection(address)
    connection.sendall(name.encode() + b"\n")
    return float(connection.recv(100))  # leak 1: ... and if it is no number? And if it is?


class QuoteClient:
    """Keeps its connection for the next question."""

    connections = {}

    def ask(self, address, name):
        if address not in self.connections:
            self.connections[address] = socket.create_connection(address)  # leak 2: who closes it?
        connection = self.connections[address]
        connection.sendall(name.encode() + b"\n")
        return float(connection.recv(100))
