"""Guards as they must not be, in the place of `sockguard run`, to prove that the differential test can fail.

`python broken.py timer PROGRAM ARGS...` shuts down each connection that has been in CLOSE_WAIT
for 0.3 s, whatever it does; `broken.py flip` turns a bit of some of what the program reads.
"""

import contextlib
import os
import runpy
import socket
import sys
import threading
import time

CLOSE_WAIT = 8
FOLDER = "/proc/self/fd"
PATIENCE = 0.3
LONG = 1000
"""Bytes; of longer reads the last byte is spoilt."""


def patrol() -> None:
    """Looks at all sockets for ever, and ends those whose peer hung up."""
    seen: dict[str, float] = {}
    while True:
        sick = set()
        for fd in os.listdir(FOLDER):
            with contextlib.suppress(OSError):
                name = os.readlink(f"{FOLDER}/{fd}")
                if not name.startswith("socket:"):
                    continue
                with socket.socket(fileno=os.dup(int(fd))) as sock:
                    if sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == CLOSE_WAIT:
                        sick.add(name)
                        if time.monotonic() - seen.setdefault(name, time.monotonic()) > PATIENCE:
                            sock.shutdown(socket.SHUT_RDWR)
        seen = {name: since for name, since in seen.items() if name in sick}
        time.sleep(0.05)


def flip() -> None:
    """Spoils the last byte of each long read."""
    read = socket.socket.recv

    def recv(self: socket.socket, *args: int) -> bytes:
        data = read(self, *args)
        return data[:-1] + bytes([data[-1] ^ 1]) if len(data) > LONG else data

    socket.socket.recv = recv  # type: ignore[method-assign]


if __name__ == "__main__":
    fault, sys.argv = sys.argv[1], sys.argv[2:]
    if fault == "timer":
        threading.Thread(target=patrol, daemon=True).start()
    else:
        flip()
    runpy.run_path(sys.argv[0], run_name="__main__")
