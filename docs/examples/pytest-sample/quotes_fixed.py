"""The same, repaired."""

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
        with connection, connection.makefile("rb") as lines:
            for line in lines:  # until the client hangs up, whether it has subscribed or not
                name = line.decode().strip()
                if name == "SUBSCRIBE":
                    self.subscribers.append(connection)
                else:
                    connection.sendall(QUOTES.get(name, b"?") + b"\n")
        if connection in self.subscribers:
            self.subscribers.remove(connection)

    def stop(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


def ask(address, name):
    """Asks for one quote."""
    with socket.create_connection(address) as connection:
        connection.sendall(name.encode() + b"\n")
        return float(connection.recv(100))


class QuoteClient:
    """Keeps its connection for the next question."""

    def __init__(self):
        self.connections = {}

    def ask(self, address, name):
        if address not in self.connections:
            self.connections[address] = socket.create_connection(address)
        connection = self.connections[address]
        connection.sendall(name.encode() + b"\n")
        return float(connection.recv(100))

    def close(self):
        while self.connections:
            self.connections.popitem()[1].close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
