"""A client of Redis that sends each line of its input as a command; in between its connection rests, as in a pool."""

import argparse
import logging
import socket
import sys

import sockguard


def connect(port: int, policy: sockguard.Policy) -> sockguard.GuardedSocket:
    """Connects to Redis."""
    return sockguard.guard_socket(socket.create_connection(("127.0.0.1", port)), policy)


def ask(sock: socket.socket, command: str) -> str:
    """Sends a command and gives its reply, a line or a text. Heartbeats and their replies never come up here."""
    sock.sendall(command.encode() + b"\r\n")
    with sock.makefile("rb") as file:
        if not (reply := file.readline()):
            raise ConnectionAbortedError("Redis closed the connection")
        return (file.read(int(reply[1:]) + 2) if reply[:1] == b"$" else reply).decode().strip()


def main() -> None:
    """Asks line by line; a connection that has come to its end is replaced when it is needed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=6379)
    parser.add_argument("--every", type=float, default=30, help="seconds of silence before a heartbeat")
    parser.add_argument("--timeout", type=float, default=5, help="seconds in which Redis has to answer it")
    parser.add_argument("--fin-timeout", type=float, default=30, help="seconds")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    heartbeat = sockguard.Heartbeat.redis(every=options.every, timeout=options.timeout)
    policy = sockguard.Policy(fin_timeout=options.fin_timeout, heartbeat=heartbeat)
    sock = connect(options.port, policy)
    print("connected", flush=True)
    for line in sys.stdin:
        try:
            print(ask(sock, line.strip()), flush=True)
        except ConnectionError as error:
            logging.getLogger("client").info("Connecting again, as %s", error)
            sock.close()
            sock = connect(options.port, policy)
            print(ask(sock, line.strip()), flush=True)


if __name__ == "__main__":
    main()
