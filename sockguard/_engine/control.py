"""Tells `sockguard report` what only the inside knows: where connections were opened, and who holds them.

A Unix socket that whoever connects to reads one line of JSON from, and nothing is ever read
from. It has no thread: the guard calls `poll()` at every tick, and nothing in there waits. A
client that does not read is dropped after some seconds, at most a few are served at once, and only root and the user of
the process are served at all.

Between two ticks anything may have happened to our descriptors. A program that turns itself
into a daemon closes all numbers from 3 on, and opens files that get these numbers. So each
time we look first (fstat) whether a number is still the socket that it was; if not, it is
let go without closing it, and a new listener takes the place of a lost one.

After a fork, the child has a copy of the listener. It closes the copy but leaves the file
alone, which is the parent's, and makes its own at its next tick.
"""

import _socket
import contextlib
import json
import os
import socket
import stat
from collections.abc import Callable, Mapping
from typing import Any

from sockguard._kernel.control_path import private_folder, read_peer, socket_name, sweep
from sockguard._kernel.natives import monotonic
from sockguard._kernel.proc_pid import read_stat

__all__ = ["SWITCH", "ControlServer"]

SWITCH = "SOCKGUARD_CONTROL"
"""The environment variable that turns it off, by the value 0."""
SCHEMA = 1
BACKLOG = 8
MAX_CLIENTS = 4
"""Served at once; more wait in the queue for the next tick."""
PATIENCE = 5.0
"""Seconds after which a client that does not read is dropped."""
RETRY_AFTER = 30.0
"""Seconds between attempts to open, where that fails: no descriptor left, no directory."""
MAX_ANSWER = 1 << 19
"""Bytes of an answer: some 1,000 connections with the stacks that opened them."""

_NO_SIGNAL = int(getattr(socket, "MSG_NOSIGNAL", 0))
"""A program that wants to die of SIGPIPE (head, and much that is used in pipes) must not do so by a client of ours."""


class _Own:
    """A socket of ours, and how to tell whether its number is still ours."""

    def __init__(self, sock: _socket.socket) -> None:
        self.sock = sock
        facts = os.fstat(sock.fileno())
        self._identity = (facts.st_dev, facts.st_ino)

    def is_ours(self) -> bool:
        """Tells whether the number is still that of the socket."""
        try:
            facts = os.fstat(self.sock.fileno())
        except OSError:
            return False
        return (facts.st_dev, facts.st_ino) == self._identity

    def close(self) -> None:
        """Closes it, or lets go of a number that is somebody else's by now."""
        if self.is_ours():
            self.sock.close()
        else:
            self.sock.detach()


class _Client(_Own):
    """Somebody who has asked, and what is still to be sent to them."""

    def __init__(self, sock: _socket.socket, answer: bytes, until: float) -> None:
        super().__init__(sock)
        self._rest = memoryview(answer)
        self._until = until

    def is_done(self, now: float) -> bool:
        """Sends what can be sent without waiting; tells whether that was all, or is to be the end."""
        if not self.is_ours():
            return True
        try:
            self._rest = self._rest[self.sock.send(self._rest, _NO_SIGNAL) :]
        except BlockingIOError:
            return now >= self._until
        except OSError:
            return True  # it has hung up
        return not self._rest or now >= self._until


class ControlServer:
    """Answers on the control socket of this process; open it, then poll it from one thread.

    Args:
        describe: Makes the answer: "connections", "stalled" and "policy", as docs/reference/control-socket.md
            has them. Called only if somebody asks.
        clock: Monotonic seconds.
    """

    def __init__(self, describe: Callable[[], Mapping[str, object]], clock: Callable[[], float] = monotonic) -> None:
        self._describe = describe
        self._clock = clock
        self._listener: _Own | None = None
        self._clients: list[_Client] = []
        self._pid = os.getpid()
        self._is_open = False
        self._retry_at = 0.0
        self._file: tuple[int, int] | None = None
        self.path: str | None = None
        """Where it listens; None where it does not."""

    def open(self) -> None:
        """Begins to listen, unless the environment forbids it; where that fails, poll() tries again."""
        self._is_open = os.environ.get(SWITCH) != "0"
        self._retry_at = 0.0
        self._listen(is_first=True)

    def poll(self) -> None:
        """Serves who has asked; never waits and never raises."""
        if not self._is_open:
            return
        if os.getpid() != self._pid:
            self.after_fork_in_child()
        if self._listener is None or not self._listener.is_ours():
            self._lose()
            self._listen()
        with contextlib.suppress(OSError):  # such as no descriptor left
            self._accept()
        self._send()

    def close(self) -> None:
        """Ends it, and removes the file."""
        self._is_open = False
        self._unlink()
        self._drop()

    def after_fork_in_child(self) -> None:
        """Lets go of what belongs to the parent; the next poll() listens anew."""
        self._file = None
        self._drop()
        self._pid = os.getpid()
        self._retry_at = 0.0

    def _listen(self, *, is_first: bool = False) -> None:
        now = self._clock()
        if not self._is_open or now < self._retry_at:
            return
        self._retry_at = now + RETRY_AFTER
        try:
            folder = private_folder()
            if is_first:
                sweep(folder)
            self._bind(os.path.join(folder, socket_name(self._pid, read_stat("self").started)))
        except OSError:
            self._lose()  # no place, no descriptor, no /proc: a report does without
        else:
            self._retry_at = 0.0

    def _bind(self, path: str) -> None:
        sock = _socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self._listener = _Own(sock)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)  # of a listener that we have lost: nobody else has this name
        sock.bind(path)
        facts = os.lstat(path)
        self.path, self._file = path, (facts.st_dev, facts.st_ino)
        os.chmod(path, stat.S_IRUSR | stat.S_IWUSR)
        sock.listen(BACKLOG)

    def _accept(self) -> None:
        answer = b""
        while self._listener is not None and len(self._clients) < MAX_CLIENTS:
            fd, _ = self._listener.sock._accept()  # type: ignore[attr-defined]  # noqa: SLF001 - socket.socket does
            sock = _socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK, 0, fd)
            sock.setblocking(False)
            if read_peer(sock).uid not in (0, os.geteuid()):
                sock.close()
                continue
            answer = answer or self._answer()
            self._clients.append(_Client(sock, answer, self._clock() + PATIENCE))

    def _send(self) -> None:
        now = self._clock()
        for client in list(self._clients):
            if client.is_done(now):
                client.close()
                self._clients.remove(client)

    def _answer(self) -> bytes:
        own = {"schema": SCHEMA, "pid": self._pid}
        try:
            return _in_one_line({**self._describe(), **own})
        except Exception as error:  # noqa: BLE001 - the guard goes on, and the client learns why there is nothing
            return _in_one_line({**own, "error": type(error).__name__})

    def _lose(self) -> None:
        """Gives up a listener that never came to be, or whose number was closed by somebody else."""
        self._unlink()
        self._drop()

    def _drop(self) -> None:
        for own in (*self._clients, *([self._listener] if self._listener else [])):
            own.close()
        self._clients, self._listener, self.path = [], None, None

    def _unlink(self) -> None:
        """Removes the file if it is the one that we made."""
        if self.path is None or self._file is None or os.getpid() != self._pid:
            return
        with contextlib.suppress(OSError):
            facts = os.lstat(self.path)
            if (facts.st_dev, facts.st_ino) == self._file:
                os.unlink(self.path)
        self._file = None


def _in_one_line(answer: dict[str, Any]) -> bytes:
    """Writes an answer, with as many connections as there is room for."""
    line = json.dumps(answer).encode() + b"\n"
    while len(line) > MAX_ANSWER and answer.get("connections"):
        connections = answer["connections"]
        kept = connections[: len(connections) // 2]
        answer |= {"connections": kept, "n_left_out": answer.get("n_left_out", 0) + len(connections) - len(kept)}
        line = json.dumps(answer).encode() + b"\n"
    return line if len(line) <= MAX_ANSWER else _in_one_line({"schema": SCHEMA, "error": "too large"})
