"""One cell's stage: a server, its clients, and what can be seen of their connections from outside.

All is looked at through /proc, so that the opinion owes nothing to sockguard.
"""

import contextlib
import os
import select
import signal
import socket
import ssl
import struct
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from netstat import CLOSE_WAIT, ESTABLISHED, Row, rows
from waiting import eventually

__all__ = ["Client", "Lost", "Patient", "Scene", "Server", "chunk", "end_all", "watch"]

SERVERS = Path(__file__).parent / "servers"
PEM = Path(__file__).parent / "programs" / "localhost.pem"

PATIENCE = 5.0
"""Seconds that a client waits for what takes milliseconds."""
LOOK_EVERY = 0.05
OPEN = {ESTABLISHED, CLOSE_WAIT}
PR_SET_CHILD_SUBREAPER = 36


class Lost(Exception):
    """A client did not get what a working server gives: the text says what."""


def chunk(number: int) -> bytes:
    """Gives the n-th 1000 bytes of a long answer, as servers/common.py does."""
    return b"%08d" % number * 125


def descendants(pid: int) -> set[int]:
    """Lists the processes that a process has started, and those that they have started."""
    found: set[int] = set()
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, path.read_text().split()):
                found |= {child} | descendants(child)
    return found


def sockets_of(pid: int) -> dict[int, int]:
    """Gives the sockets that a process holds: descriptor to inode."""
    held = {}
    with contextlib.suppress(OSError):
        for name in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                link = os.readlink(f"/proc/{pid}/fd/{name}")
                if link.startswith("socket:["):
                    held[int(name)] = int(link[8:-1])
    return held


class Server:
    """A server program in a process of its own; `words` is the command line up to the program's options."""

    def __init__(self, words: Sequence[str], log: Path) -> None:
        self.log = log
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
        with log.open("wb") as stderr:
            self.process = subprocess.Popen(
                words,
                cwd=SERVERS,
                env=environment | {"PYTHONPATH": str(SERVERS)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                bufsize=0,
            )
        self.pid = self.process.pid
        self.port = int(self.told("port"))

    def told(self, word: str) -> str:
        """Waits for the line on standard output that begins with this word, and gives the rest.

        Raises:
            Lost: It did not come in time, or the server ended.
        """
        assert self.process.stdout
        ready, _, _ = select.select([self.process.stdout], [], [], 4 * PATIENCE)
        line = self.process.stdout.readline().decode().split() if ready else []
        if line[:1] != [word]:
            raise Lost(f"the server said {line} instead of {word!r}")
        return line[1]

    @property
    def is_alive(self) -> bool:
        return self.process.poll() is None

    def held(self) -> set[int]:
        """Lists the inodes of all sockets that the server and its children hold."""
        return {inode for pid in {self.pid} | descendants(self.pid) for inode in sockets_of(pid).values()}


def end_all() -> None:
    """Kills the server and its children, by their pids; orphans are ours, see prctl(PR_SET_CHILD_SUBREAPER)."""
    for _ in range(3):
        for pid in descendants(os.getpid()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.02)


class Client:
    """Our end of a connection to the server."""

    def __init__(self, server: Server, *, tls: bool = False, receive_buffer: int | None = None) -> None:
        self.server = server
        self.sock = socket.socket()
        self.sock.settimeout(PATIENCE)
        if receive_buffer:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.sock.connect(("127.0.0.1", server.port))
        self.port: int = self.sock.getsockname()[1]
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            self.sock = context.wrap_socket(self.sock)

    def say(self, words: str) -> "Client":
        """Tells the server what to do with this connection, and waits until it has understood."""
        self.sock.sendall(words.encode() + b"\n")
        self.expect(b"ok\n")
        return self

    def expect(self, wanted: bytes) -> None:
        """Reads exactly these bytes.

        Raises:
            Lost: Others came, or the stream ended or failed before.
        """
        got = b""
        try:
            while len(got) < len(wanted) and (data := self.sock.recv(len(wanted) - len(got))):
                got += data
        except OSError as error:
            raise Lost(f"after {len(got)} of {len(wanted)} bytes: {error}") from error
        if got != wanted:
            raise Lost(f"{len(got)} of {len(wanted)} bytes came, {'' if wanted.startswith(got) else 'and wrong ones'}")

    def expect_chunks(self, n: int) -> None:
        """Reads a long answer to its end."""
        for number in range(n):
            try:
                self.expect(chunk(number))
            except Lost as lost:
                raise Lost(f"in the {number + 1}. of {n} kB: {lost}") from lost
        self.expect_end()

    def expect_end(self) -> None:
        """Reads the end of the stream."""
        try:
            data = self.sock.recv(100)
        except OSError as error:
            raise Lost(f"at the end: {error}") from error
        if data:
            raise Lost(f"{len(data)} bytes too many")

    def half_close(self) -> None:
        self.sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self.sock.close()

    def raw(self) -> socket.socket:
        """Takes the connection out of the hands of TLS."""
        self.sock = socket.socket(fileno=self.sock.detach())
        return self.sock

    def reset(self) -> None:
        """Closes with a reset instead of a FIN."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def server_end(self) -> Row | None:
        """Tells what the kernel's table says of the server's end, if it is still there."""
        return next((row for row in rows(self.server.port) if row.remote_port == self.port), None)


@dataclass
class Patient:
    """The server's end of a connection in trouble, as it looks from outside; spans in seconds since the trouble."""

    port: int
    inode: int
    since: float
    state: int = 0
    ended_after: float | None = None
    released_after: float | None = None

    @property
    def is_over(self) -> bool:
        return self.ended_after is not None and self.released_after is not None

    def look(self, row: Row | None, held: set[int], now: float) -> None:
        """Notes when the connection has left the open states, and when nobody holds it any more."""
        self.state = row.state if row else 0
        if self.ended_after is None and self.state not in OPEN:
            self.ended_after = now - self.since
        if self.released_after is None and self.inode not in held:
            self.released_after = now - self.since


def _accepted(row: Row | None) -> Row | None:
    """Gives the row once it has an owner, or has already lost it again: then a slow machine was overtaken."""
    return row if row and (row.inode or row.state not in OPEN) else None


@dataclass
class Scene:
    """What the faults work with: the server, whom to watch, and what the clients complain of."""

    server: Server
    tls: bool = False
    patients: list[Patient] = field(default_factory=list)
    clients: list[Client] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def client(self, words: str = "", **how: object) -> Client:
        """Connects; with words, the server does what they say."""
        client = Client(self.server, **{"tls": self.tls, **how})
        self.clients.append(client)
        return client.say(words) if words else client

    def suffer(self, *clients: Client) -> None:
        """Watches these connections from now on; the trouble is about to begin."""
        for client in clients:
            row = eventually(lambda client=client: _accepted(client.server_end()))
            self.patients.append(Patient(client.port, row.inode, time.monotonic(), row.state))

    @contextlib.contextmanager
    def must_arrive(self) -> Iterator[None]:
        """Notes what a client did not get."""
        try:
            yield
        except (Lost, OSError) as error:
            self.lost.append(str(error))

    def fresh(self) -> str:
        """Gives the complaint of a new and healthy client, if it has one."""
        try:
            client = Client(self.server, tls=self.tls).say("echo")
            client.sock.sendall(b"hello")
            client.expect(b"hello")
            client.close()
        except (Lost, OSError) as error:
            return str(error)
        return ""


def watch(scene: Scene, until: float) -> None:
    """Looks at the patients until all is over, or the time is up; at least once."""
    look(scene)
    while time.monotonic() < until and not all(patient.is_over for patient in scene.patients):
        time.sleep(LOOK_EVERY)
        look(scene)


def look(scene: Scene) -> None:
    """Looks at the patients once."""
    table = {row.remote_port: row for row in rows(scene.server.port)}
    held, now = scene.server.held(), time.monotonic()
    for patient in scene.patients:
        patient.look(table.get(patient.port), held, now)
