"""A heartbeat on a plain socket, whose clock a test moves: what an adapter does, in its shortest form."""

import socket
from collections.abc import Callable

from sockguard._core.heartbeat import BeatState, Heart
from sockguard._core.policy_probes import Heartbeat

__all__ = ["Beating"]


class Beating:
    """A socket and its heart; the application's side of it is `received`."""

    def __init__(self, sock: socket.socket, heartbeat: Heartbeat, *, size: int = 65536) -> None:
        self.sock, self.size, self.now = sock, size, 0.0
        self.heart = Heart(heartbeat, self.now)
        self.received = b""
        """All that the application got."""

    def ask(self) -> None:
        """Lets the silence become long enough, and sends what is due then."""
        self.now += self.heart.heartbeat.every
        payload = self.heart.due(self.now, is_excused=False)
        assert payload is not None
        self.sock.sendall(payload)
        self.heart.sent(self.now)

    def send(self, data: bytes) -> None:
        """Sends for the application."""
        self.sock.sendall(data)
        self.heart.moved(self.now)

    def read_until(self, is_enough: Callable[[], bool]) -> None:
        """Receives, `size` bytes at a time, until a condition holds or the stream ends."""
        while not is_enough():
            data = self.sock.recv(self.size)
            self.received += self.heart.receive(data, self.now)
            if not data:
                return

    def take(self, size: int) -> bytes:
        """Receives as many bytes for the application, and gives them."""
        self.read_until(lambda: len(self.received) >= size)
        taken, self.received = self.received[:size], self.received[size:]
        return taken

    def read_answer(self) -> None:
        """Receives until no answer is owed."""
        self.read_until(lambda: self.heart.n_answered == self.heart.n_sent)

    def silence(self, seconds: float) -> BeatState:
        """Lets time pass, and tells how it stands."""
        self.now += seconds
        return self.heart.check(self.now, is_excused=False)
