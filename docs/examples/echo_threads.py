"""An echo server with a thread for each connection; who sends `wait` gets no echo, but news, when there are some."""

import argparse
import contextlib
import logging
import threading

import sockguard

NEWS = threading.Event()
"""Never comes, as many a thing that handlers wait for."""


def serve(sock: sockguard.GuardedSocket) -> None:
    """Echoes until the client hangs up."""
    with sock, contextlib.suppress(ConnectionError):
        while data := sock.recv(4096):
            if data.startswith(b"wait"):
                NEWS.wait()  # here nobody sees the client go
            sock.sendall(data)


def main() -> None:
    """Accepts for ever."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--fin-timeout", type=float, default=30, help="seconds")
    parser.add_argument("--idle-timeout", type=float, default=300, help="seconds")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    policy = sockguard.Policy(fin_timeout=options.fin_timeout, idle_timeout=options.idle_timeout)
    with sockguard.create_server(("127.0.0.1", options.port), policy=policy) as listener:
        print("port", listener.getsockname()[1], flush=True)
        while True:
            sock, _ = listener.accept()
            threading.Thread(target=serve, args=(sock,), daemon=True).start()


if __name__ == "__main__":
    main()
