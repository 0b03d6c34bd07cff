"""Leaking servers in three languages, as processes of their own, and the peers that hang up on them."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator

import pytest

from children import Child
from commands import PROGRAMS
from netstat import CLOSE_WAIT, ESTABLISHED, wait_for

__all__ = ["LANGUAGES", "Server", "compiled_server", "port_of", "start_program", "start_server", "teach"]

LANGUAGES = ("python", "node", "c")


class Server:
    """A server that does not close its connections; see programs/server.py for its modes."""

    def __init__(self, process: "subprocess.Popen[str]", mode: str) -> None:
        assert process.stdout
        self._process = process
        self.pid = process.pid
        self.mode = mode
        self.port = int(process.stdout.readline())

    def say(self, line: str) -> str:
        """Tells the program something on its standard input, and gives its answer."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return self._process.stdout.readline().rstrip("\n")

    def connect(self, data: bytes = b"hello") -> socket.socket:
        """Connects, sends something, and waits until the server has taken it as far as its mode goes."""
        client = socket.create_connection(("127.0.0.1", self.port))
        client.sendall(data)
        left = len(data) if self.mode == "unread" else 0
        wait_for(self.port, remote_port=port_of(client), state=ESTABLISHED, inode=True, recv_queue=left)
        return client

    def hung_up(self, client: socket.socket, data: bytes = b"hello") -> None:
        """Waits until the leak is there, after the client has closed or half-closed."""
        left = {"unread": len(data) + 1, "eof_unread": 1, "eof_ignored": 0}[self.mode]
        wait_for(self.port, remote_port=port_of(client), state=CLOSE_WAIT, inode=True, recv_queue=left)

    def half_close(self, data: bytes = b"hello") -> socket.socket:
        """Makes a leak whose peer has sent its FIN and still listens, so that it can see ours."""
        client = self.connect(data)
        client.shutdown(socket.SHUT_WR)
        self.hung_up(client, data)
        return client

    def read_rest(self) -> bytes:
        """Lets the server read all that its connections still hold."""
        return bytes.fromhex(self.say("read"))


def teach(child: Child, code: str) -> None:
    """Runs several lines in a child that obeys."""
    child.do(f"exec({textwrap.dedent(code)!r})")


def port_of(sock: socket.socket) -> int:
    """Tells the port of our end."""
    return int(sock.getsockname()[1])


@contextlib.contextmanager
def start_program(*command: str, name: str = "") -> Iterator["subprocess.Popen[str]"]:
    """Starts a program of programs/ with pipes to it; it is killed at the end, by its pid."""
    words = [sys.executable, "-P", str(PROGRAMS / name), *command] if name else list(command)
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture(scope="session")
def compiled_server(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], str]:
    """Gives a function that compiles server.c once and tells the path of the program."""
    path = tmp_path_factory.mktemp("programs") / "server"

    def compile_once() -> str:
        if not shutil.which("gcc"):
            pytest.skip("no gcc here: the server in C was not tested")
        if not path.exists():
            subprocess.run(["gcc", "-O1", "-Wall", "-Werror", "-o", path, PROGRAMS / "server.c"], check=True)
        return os.fspath(path)

    return compile_once


@pytest.fixture
def start_server(compiled_server: Callable[[], str]) -> Iterator[Callable[[str, str], Server]]:
    """Gives a function that starts a leaking server: language and mode to a `Server`."""
    with contextlib.ExitStack() as stack:

        def start(language: str, mode: str) -> Server:
            if language == "node" and not shutil.which("node"):
                pytest.skip("no node here: the server in JavaScript was not tested")
            command = {
                "python": lambda: [sys.executable, "-P", str(PROGRAMS / "server.py")],
                "node": lambda: ["node", str(PROGRAMS / "server.js")],
                "c": lambda: [compiled_server()],
            }[language]()
            return Server(stack.enter_context(start_program(*command, mode)), mode)

        yield start
