"""An echo server with one loop over a selector; who sends `wait` gets no echo, but news, when there are some."""

import argparse
import contextlib
import logging
import selectors
import socket

import sockguard


def serve(selector: selectors.BaseSelector, sock: socket.socket, *, waits: bool) -> None:
    """Echoes until the client hangs up. Who waits is not heard: its end is told in each round, and nobody closes."""
    data = sock.recv(4096)
    if waits:
        return
    if data.startswith(b"wait"):
        selector.modify(sock, selectors.EVENT_READ, data="waits")
    elif data:
        sock.send(data)  # a real server keeps what did not go, and waits for EVENT_WRITE
    else:
        selector.unregister(sock)
        sock.close()


def main() -> None:
    """Loops for ever; the guard works in `select()`, and needs no thread."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--fin-timeout", type=float, default=30, help="seconds")
    parser.add_argument("--idle-timeout", type=float, default=300, help="seconds")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    policy = sockguard.Policy(fin_timeout=options.fin_timeout, idle_timeout=options.idle_timeout)
    selector = sockguard.GuardedSelector(policy=policy)
    with socket.create_server(("127.0.0.1", options.port)) as listener:
        print("port", listener.getsockname()[1], flush=True)
        selector.register(listener, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is listener:
                    selector.register(listener.accept()[0], selectors.EVENT_READ, data="echo")
                elif isinstance(key.fileobj, socket.socket):
                    with contextlib.suppress(ConnectionError):  # what is over, the guard closes
                        serve(selector, key.fileobj, waits=key.data == "waits")


if __name__ == "__main__":
    main()
