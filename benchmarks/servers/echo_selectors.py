"""Echo with the module selectors and one thread: `echo_selectors.py [HOST]`, prints its port."""

import selectors
import socket
import sys


def accept(selector: selectors.BaseSelector, listener: socket.socket) -> None:
    """Takes one connection."""
    sock, _ = listener.accept()
    sock.setblocking(False)
    selector.register(sock, selectors.EVENT_READ, echo)


def echo(selector: selectors.BaseSelector, sock: socket.socket) -> None:
    """Sends back what has come, or closes."""
    try:
        data = sock.recv(65536)
        n_sent = sock.send(data) if data else 0
    except ConnectionResetError:
        data, n_sent = b"", 0
    if not data:
        selector.unregister(sock)
        sock.close()
    elif n_sent < len(data):  # never seen here: a client waits for its echo before it goes on
        sock.setblocking(True)
        sock.sendall(data[n_sent:])
        sock.setblocking(False)


def main() -> None:
    """Serves until it is killed."""
    host = sys.argv[1] if sys.argv[1:] else "127.0.0.1"
    listener = socket.create_server((host, 0), backlog=4096)
    print(listener.getsockname()[1], flush=True)
    with selectors.DefaultSelector() as selector:
        selector.register(listener, selectors.EVENT_READ, accept)
        while True:
            for key, _ in selector.select():
                key.data(selector, key.fileobj)


if __name__ == "__main__":
    main()
