"""Echo with a selector, bare or guarded: `echo_selector_wrapper.py [--guarded]`, prints its port.

After that, `port` on standard input prints that of a second listener, and `register N` has it take N connections
from the queue of that one, register, unregister and close them; it prints the microseconds of both for one connection.
"""

import gc
import selectors
import socket
import sys
import time

from echo_selectors import accept

if "--guarded" in sys.argv:
    from sockguard import GuardedSelector as Selector  # type: ignore[attr-defined,unused-ignore]
else:
    Selector = selectors.DefaultSelector  # type: ignore[misc,assignment,unused-ignore]


def register_and_unregister(selector: selectors.BaseSelector, listener: socket.socket, n_sockets: int) -> None:
    """Takes connections and registers them; prints the microseconds of each step for one of them."""
    socks = [listener.accept()[0] for _ in range(n_sockets)]
    gc.collect()
    started = time.perf_counter()
    for sock in socks:
        selector.register(sock, selectors.EVENT_READ, accept)
    registered = time.perf_counter()
    for sock in socks:
        selector.unregister(sock)
    unregistered = time.perf_counter()
    for sock in socks:
        sock.close()
    first, second = registered - started, unregistered - registered
    print(first / n_sockets * 1e6, second / n_sockets * 1e6, flush=True)


def main() -> None:
    """Serves and obeys until it is killed."""
    listener, second = (socket.create_server(("127.0.0.1", 0), backlog=4096) for _ in range(2))
    print(listener.getsockname()[1], flush=True)
    with Selector() as selector:

        def obey(*_: object) -> None:
            verb, *number = sys.stdin.readline().split()
            if verb == "register":
                register_and_unregister(selector, second, int(number[0]))
            else:
                print(second.getsockname()[1], flush=True)

        selector.register(listener, selectors.EVENT_READ, accept)
        selector.register(second, selectors.EVENT_WRITE)  # never ready to send: known, and nothing more
        selector.register(sys.stdin, selectors.EVENT_READ, obey)
        while True:
            for key, _ in selector.select():
                key.data(selector, key.fileobj)


if __name__ == "__main__":
    main()
