"""How does the heart of a socket beat, while its program receives and sends as it likes, in whatever threads?

Who may do what, and when. `Heart` wants to be used by one thread at a time, and between its
question and `sent` nobody may read, lest the answer is taken for data of the application. So
there are two locks, and sockets without a heart have neither.

- The lock is held while bytes are read, and while the heart is told of bytes; never while
  somebody waits for bytes. Whoever receives waits outside, by poll(2), and then takes what
  is there. So the guard's thread, which only tries the lock, always comes to its turn.
- The gate is held while the application sends, for as long as that takes. The guard's
  thread only tries it. The order is gate, then lock; or lock, then a try at the gate.

An answer for which nobody waits must not stay in the queue: a pooled client of Redis would
read it in place of the reply to its next command, and many a pool takes a connection that is
readable for one that has ended. The guard's thread looks at what is there (MSG_PEEK), and takes it out
if it is nothing but answers; anything else is the application's. It does so at each tick, until
then the connection looks readable.

Price. A select() can be told of bytes that turn out to be an answer: the recv() after it
then finds nothing, as with any false alarm of select(2). And a recv() of fewer bytes than are
held back as the possible beginning of an answer leaves some here, of which select() knows nothing.
And SO_RCVTIMEO has no effect, as no call waits in the kernel: settimeout() has.
"""

import _socket
import contextlib
import copy
import errno
import os
import socket
import threading
from collections.abc import Iterator
from typing import Any

from sockguard._core.heartbeat import BeatState, Heart
from sockguard._core.timers import TICK
from sockguard._engine.guard import Guard
from sockguard._engine.sockets.in_use import calls_into_c
from sockguard._engine.sockets.meter import DONT_WAIT, Meter
from sockguard._engine.sockets.receiving import RECV, Args, Receiving, brings_descriptors
from sockguard._engine.terms import Terms
from sockguard._kernel.activity import read_activity
from sockguard._kernel.natives import monotonic
from sockguard._kernel.one_socket import fd_of
from sockguard._kernel.portable import is_connected, read_stamps
from sockguard._kernel.ready import is_ready

__all__ = ["Pulse"]

_Raw = _socket.socket
_recv, _send, _timeout_of = _Raw.recv, _Raw.send, _Raw.gettimeout
_family_of = _Raw.family.__get__
_now = monotonic
NOT_OF_THE_STREAM = socket.MSG_OOB | getattr(socket, "MSG_ERRQUEUE", 0)
"""Flags with which a call receives something else, never waits for it, and poll(2) is no help."""
calls_into_c(is_ready)  # who waits in it goes on with the descriptor: it must not be released meanwhile
WAIT_FOR_ALL: int = getattr(socket, "MSG_WAITALL", 0)
LOOK = 4096
"""Bytes that are looked at for answers; a pong is some ten, and more than a few are never owed."""


class Pulse(Meter):
    """Counts the bytes of one socket, and has its heart beat.

    Args:
        terms: With a heart. It begins to count now, as its connection can be younger.
    """

    __slots__ = ("_heart", "_is_up", "_left", "_lock", "_pid", "_rest")

    def __init__(self, terms: Terms) -> None:
        super().__init__(terms)
        assert terms.heart is not None  # noqa: S101 - see above
        self._heart = terms.heart
        self._heart.moved(_now())
        self._is_up = False
        """It was seen to be connected."""
        self._left = b""
        """Bytes of the application for which its last call had no room."""
        self._rest = b""
        """What is still to be sent of a question."""
        self._pid = os.getpid()
        self._lock = threading.RLock()
        """A signal handler may send while its own thread holds it."""

    def renew_after_fork(self) -> None:
        """Takes a lock that nobody holds: a thread that is not in this process may hold the old one."""
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._lock = threading.RLock()

    # --- Receiving ---

    @calls_into_c
    def receive(self, sock: Any, how: Receiving, args: Args) -> Any:
        """Receives what is the application's: waits without the lock, and reads with it, until there is some.

        Raises:
            OSError: As the call itself.
        """
        self.renew_after_fork()
        if how.flags(args) & NOT_OF_THE_STREAM or not how.room(args):
            return how.call(sock, *args)
        timeout = 0.0 if how.flags(args) & DONT_WAIT else _timeout_of(sock)
        if how.flags(args) & WAIT_FOR_ALL and timeout is None:
            return self._receive_all(sock, how, args)
        until = _now() + timeout if timeout else None
        while True:
            if timeout != 0 and not (self._left or is_ready(sock, until)):
                raise TimeoutError("timed out")
            result = self._take_turn(sock, how, args, waits=timeout != 0)
            if result is not None:
                return result

    @calls_into_c
    def _take_turn(self, sock: Any, how: Receiving, args: Args, *, waits: bool) -> Any:
        """Reads once, unless another thread was faster; None if there is nothing to give."""
        with self._lock:
            if waits and not self._left and not is_ready(sock):
                return None
            return self._read(sock, how, args)

    def _receive_all(self, sock: Any, how: Receiving, args: Args) -> Any:
        """Receives all that there is room for, as MSG_WAITALL has it, but with the lock free while it waits."""
        flags = how.flags(args) & ~WAIT_FOR_ALL
        args = (*args[: how.flags_at], flags, *args[how.flags_at + 1 :])
        result = self.receive(sock, how, args)
        data = more = how.data_of(args, result)
        while more and len(data) < how.room(args) and not flags & socket.MSG_PEEK:
            more = self.receive(sock, RECV, (how.room(args) - len(data), flags))
            data += more
        return how.put(args, result, data)

    @calls_into_c
    def _read(self, sock: Any, how: Receiving, args: Args) -> Any:
        """Reads what is there; None if all of it was for us."""
        is_look, room = bool(how.flags(args) & socket.MSG_PEEK), how.room(args)
        if self._left:
            data, self._left = self._left[:room], self._left if is_look else self._left[room:]
            return how.put(args, how.nothing, data)
        result = how.call(sock, *args)
        if is_look:
            return self._look(sock, how, args, result)
        n = how.n_of(result)
        data = self._heart.receive(how.data_of(args, result), _now(), may_answer=not brings_descriptors(result))
        if data or not n:  # an answer is no activity of the connection's
            self._count(len(data) if n else 0, room)
        if n and not data:
            return None
        data, self._left = data[:room], data[room:]
        return how.put(args, result, data)

    @calls_into_c
    def _look(self, sock: Any, how: Receiving, args: Args, result: Any) -> Any:
        """Shows what a call would give that takes it; if that is nothing yet, takes it as that would, and gives None.

        All else stays where it is, as select() must go on telling of it.
        """
        trial = _trial_of(self._heart)
        if trial is None:
            return result
        room = how.room(args)
        seen, has_descriptors = _peek(sock, room + LOOK)
        shown = trial.receive(seen, 0.0, may_answer=not has_descriptors)
        if seen and not shown:
            self._left += self._heart.receive(_recv(sock, len(seen), DONT_WAIT), _now())
            return None
        return how.put(args, result, shown[:room])

    # --- Sending ---

    @contextlib.contextmanager
    def _sending(self, sock: Any, flags: int) -> Iterator[None]:
        self.renew_after_fork()
        gate = self._terms.gate
        assert gate is not None  # noqa: S101 - where there is a heart, there is a gate
        timeout = 0.0 if flags & DONT_WAIT else _timeout_of(sock)
        if not gate.enter(timeout):
            if timeout:
                raise TimeoutError("timed out")
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        try:
            while self._rest:
                self._rest = self._rest[_send(sock, self._rest, flags & DONT_WAIT) :]
            yield
        finally:
            gate.__exit__()

    def _sent(self, n: int) -> None:
        super()._sent(n)
        with self._lock:
            self._heart.moved(_now())

    # --- Beating ---

    def beat(self, sock: Any, guard: Guard, now: float) -> float | None:
        """Does what is due, without waiting; gives the instant of the next call, None if there is to be none."""
        if self._pid != os.getpid() or fd_of(sock) < 0:
            return None
        if not self._lock.acquire(blocking=False):
            return now + TICK  # bytes are being read just now
        try:
            if not self._has_come_up(sock, now):
                return now + TICK
            self._beat(sock, guard, now)
        except BlockingIOError:
            return now + TICK  # another process has filled the queue, or taken what was there
        except OSError:
            return None  # closed, or over: that is found by other ways
        finally:
            self._lock.release()
        # Who awaits an answer looks at each tick: nobody else may read it.
        return now if self._heart.state is BeatState.ASKED else self._heart.next_at

    def _has_come_up(self, sock: Any, now: float) -> bool:
        """Tells whether it is connected; before that nothing is to be asked, and no time counts."""
        self._is_up = self._is_up or is_connected(sock)
        if not self._is_up:
            self._heart.moved(now)
        return self._is_up

    def _beat(self, sock: Any, guard: Guard, now: float) -> None:
        self._take_answers(sock, now)
        facts = read_activity(sock) if self._books is None else read_stamps(sock, self._books, now)
        is_excused = facts.unread > 0 or bool(self._left)
        if self._heart.check(now, is_excused=is_excused) is BeatState.LOST:
            guard.demands.lose(self._terms, self._heart, now)
        elif not facts.unsent and not self._rest:
            self._ask(sock, now, is_excused=is_excused)
        if (failure := self._heart.take_failure()) is not None:
            guard.failed("heartbeat", failure)

    @calls_into_c
    def _ask(self, sock: Any, now: float, *, is_excused: bool) -> None:
        gate = self._terms.gate
        if gate is None or not gate.try_enter():
            return
        try:
            if payload := self._heart.due(now, is_excused=is_excused):
                # It need not wait: nothing lies in the send queue, so there is room.
                self._rest = payload[_send(sock, payload, DONT_WAIT) :]
                self._heart.sent(now)
        finally:
            gate.__exit__()

    @calls_into_c
    def _take_answers(self, sock: Any, now: float) -> None:
        """Takes out what waits to be read, if it is nothing but answers; with the lock held."""
        if self._heart.state is not BeatState.ASKED or not is_ready(sock):
            return
        seen, has_descriptors = _peek(sock, LOOK)
        if seen and not has_descriptors and _are_answers(self._heart, seen):
            self._left += self._heart.receive(_recv(sock, len(seen), DONT_WAIT), now)


@calls_into_c
def _peek(sock: Any, n: int) -> tuple[bytes, bool]:
    """Looks at what is there, and whether descriptors come with it, which nobody is given: none must be lost for us."""
    if _family_of(sock) != getattr(socket, "AF_UNIX", None) or not hasattr(_Raw, "recvmsg"):
        return _recv(sock, n, socket.MSG_PEEK | DONT_WAIT), False
    seen, _, flags, _ = _Raw.recvmsg(sock, n, 0, socket.MSG_PEEK | DONT_WAIT)
    return seen, bool(flags & socket.MSG_CTRUNC)


def _are_answers(heart: Heart, data: bytes) -> bool:
    """Tells whether bytes are answers and nothing else."""
    trial = _trial_of(heart)
    if trial is None:
        return False
    return not trial.receive(data, 0.0) and trial.n_answered > heart.n_answered and not trial.receive(b"", 0.0)


def _trial_of(heart: Heart) -> Heart | None:
    """Makes a copy, to try bytes on; None if no bytes are taken out: a function judges what it is shown once."""
    if not isinstance(heart.heartbeat.expect, bytes | type):
        return None
    trial = copy.copy(heart)
    trial._answers = copy.copy(heart._answers)  # noqa: SLF001 - a look that changes nothing has no other door
    return trial
