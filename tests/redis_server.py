"""A real Redis server on a free port of the loopback interface, ended by its pid."""

import contextlib
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from waiting import eventually

__all__ = ["RedisServer", "command", "start_redis"]

SETTINGS = ["--bind", "127.0.0.1", "--save", "", "--enable-protected-configs", "local", "--loglevel", "warning"]


class RedisServer:
    """A server that runs, its port and its pid."""

    def __init__(self, process: "subprocess.Popen[bytes]", port: int) -> None:
        self._process = process
        self.port = port
        self.pid = process.pid

    def connect(self) -> socket.socket:
        """Connects to it; what waits for more than ten seconds fails."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=10)

    def run(self, *words: str) -> bytes:
        """Runs one command on a connection of its own, and gives what came back first."""
        with self.connect() as sock:
            sock.sendall(command(*words))
            return sock.recv(4096)

    def end(self) -> None:
        """Kills it and waits for it."""
        self._process.kill()
        self._process.wait()


def command(*words: str | bytes) -> bytes:
    """Writes a command as clients do: an array of blobs."""
    raw = [word.encode() if isinstance(word, str) else word for word in words]
    return b"*%d\r\n" % len(raw) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in raw)


@contextlib.contextmanager
def start_redis(folder: Path) -> Iterator[RedisServer]:
    """Starts a server that keeps its files in a folder; without one to start, the test is skipped."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("redis-server is not installed (Debian: apt-get install redis-server)")
    server = eventually(lambda: _started(program, folder), timeout=20)
    try:
        yield server
    finally:
        server.end()


def _started(program: str, folder: Path) -> RedisServer | None:
    """Starts a server; None if somebody took its port first, or it is not that server that answers."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with (folder / "redis.log").open("ab") as log:
        process = subprocess.Popen([program, "--port", str(port), "--dir", str(folder), *SETTINGS], stdout=log)
    server = RedisServer(process, port)
    if eventually(lambda: process.poll() is not None or _answers(server)) is True and process.poll() is None:
        return server
    server.end()
    return None


def _answers(server: RedisServer) -> bool:
    with contextlib.suppress(OSError):
        return b"process_id:%d\r" % server.pid in server.run("INFO", "server")
    return False
