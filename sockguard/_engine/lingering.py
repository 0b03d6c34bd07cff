"""How does a connection end whose peer has sent what nobody will read? Our FIN first, then a bounded drain, then close.

Facts. close() with unread bytes makes the kernel send a RST (net/ipv4/tcp.c, `__tcp_close`), and
so does every byte that arrives after it. A peer that gets the RST drops what it has not read
yet: the tail of our answer (RFC 9112, 9.6). After shutdown(SHUT_WR) it gets our FIN behind
the answer, and what it still sends is received; we read and drop it until its FIN comes.

Choice. Nobody waits for that: whoever closes hands the descriptor over. From then on it is
the guard's own, the only numbers that it ever closes. A time and a number of bytes bound
it, as an upload of gigabytes or a peer that stays need not be seen to their end.

Price. The descriptor stays open for up to `drain_timeout` after close(). So no more linger than
an eighth of all that the process may have, and fewer when accept() finds none (`give_up`).
"""

import _socket
import contextlib
import socket
from collections import deque
from typing import NamedTuple

from sockguard._core.policy import Policy
from sockguard._kernel.natives import monotonic
from sockguard._kernel.own_fds import read_fd_limit

__all__ = ["Lingering"]

CHUNK = 65536
MAX_LINGERING = 1024
"""Connections that linger at once; the rest is closed as ever. Descriptors are worth more than the tails of answers."""
MAX_SHARE = 8
"""And no more than one in so many of the descriptors that the process may have (the soft RLIMIT_NOFILE)."""
_now = monotonic


class _Ending(NamedTuple):
    sock: _socket.socket
    until: float
    n_left: int


def _limit() -> int:
    """Tells how many may linger now: the program can change what it may have at any time."""
    try:
        limit = read_fd_limit()
    except ImportError:  # Windows, which has none
        limit = None
    return MAX_LINGERING if limit is None else min(MAX_LINGERING, limit // MAX_SHARE)


class Lingering:
    """The connections that the program has closed and the guard drains."""

    def __init__(self) -> None:
        self._taken: deque[_Ending] = deque()

    def __len__(self) -> int:
        return len(self._taken)

    def take(self, sock: _socket.socket, policy: Policy) -> None:
        """Takes a socket over and closes it in its own time; from any thread, and without waiting.

        The socket object has no descriptor any more when this returns. Without a
        `drain_timeout` it is closed at once. It must not be shared with another process:
        our FIN ends it for all.
        """
        fd = sock.detach()
        if fd < 0:
            return
        ours = _socket.socket(sock.family, sock.type, sock.proto, fd)
        if policy.drain_timeout is None or len(self._taken) >= _limit():
            ours.close()
            return
        try:
            ours.setblocking(False)
            ours.shutdown(socket.SHUT_WR)
        except OSError:  # it is over already
            ours.close()
            return
        self._drain(_Ending(ours, _now() + policy.drain_timeout, policy.drain_bytes))

    def run(self, now: float) -> None:
        """Reads on, and closes what is at its end; never waits."""
        for _ in range(len(self._taken)):
            try:
                ending = self._taken.popleft()
            except IndexError:  # given up just now
                return
            if ending.until <= now:
                ending.sock.close()
            else:
                self._drain(ending)

    def _drain(self, ending: _Ending) -> None:
        n_left = ending.n_left
        try:
            while n_left > 0:
                n_read = len(ending.sock.recv(min(CHUNK, n_left)))
                n_left = n_left - n_read if n_read else 0
        except BlockingIOError:
            self._taken.append(ending._replace(n_left=n_left))
            return
        except OSError:
            pass  # a reset: it is over
        ending.sock.close()

    def give_up(self, n: int) -> None:
        """Closes the n oldest at once, if there are so many: their descriptors are needed; from any thread."""
        with contextlib.suppress(IndexError):
            for _ in range(n):
                self._taken.popleft().sock.close()

    def close(self) -> None:
        """Closes all that is left; also in a forked child, whose copies they are."""
        while self._taken:
            self.give_up(1)
