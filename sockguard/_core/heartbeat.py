"""When is a silent peer asked for a sign of life, and when is it lost? Three states, for one connection.

                 question                silence
    WAITING  ───────────────>  ASKED  ───────────────>  LOST
       ^                         │
       └──── answer, or end ─────┘

Adapters send what `due` gives, report what arrives to `receive`, and ask again at `next_at`.
Nothing here looks at a clock or a socket: `now` is always given, in monotonic seconds.

What speaks for a peer. Its answer, of course. But any byte that arrives shows that somebody
lives there, and the answer may well stand in line behind it: a reply of 100 MB, sent before
our question was read. So `timeout` counts silence, from the question or the last byte that
arrived, and only the answer ends the question. And where *we* are late, no silence is the
peer's: while bytes lie unread in our receive queue, or our event loop does not come round,
time does not count (that has cost other libraries live connections: websockets#1012, #1128).
"""

import math
from collections.abc import Callable
from enum import Enum

from sockguard._core.answers import Answers, answers_for
from sockguard._core.policy_probes import Heartbeat
from sockguard._core.timers import TICK

__all__ = ["MOVES", "BeatState", "Happening", "Heart", "after"]


class BeatState(Enum):
    """How it stands between us and the peer."""

    WAITING = "waiting"
    """Nothing is asked: bytes flow, or have not been missed for long enough."""
    ASKED = "asked"
    """The question is sent, the answer is owed."""
    LOST = "lost"
    """It did not come. This is final."""


class Happening(Enum):
    """What can move a heart from one state to another."""

    NOTICE = "notice"
    """Bytes were sent that nobody answers."""
    QUESTION = "question"
    """Bytes were sent that the peer should answer."""
    ANSWER = "answer"
    """It did."""
    SILENCE = "silence"
    """It did not, and neither did it send anything else."""
    END = "end"
    """No more is asked: the stream has ended, or a function of the application's has failed."""


MOVES = {
    (BeatState.WAITING, Happening.NOTICE): BeatState.WAITING,
    (BeatState.WAITING, Happening.QUESTION): BeatState.ASKED,
    (BeatState.WAITING, Happening.END): BeatState.WAITING,
    (BeatState.ASKED, Happening.ANSWER): BeatState.WAITING,
    (BeatState.ASKED, Happening.SILENCE): BeatState.LOST,
    (BeatState.ASKED, Happening.END): BeatState.WAITING,
}
"""All moves there are."""


def after(state: BeatState, what: Happening) -> BeatState:
    """Gives the state after something has happened: by the table, and what is not in it changes nothing."""
    return MOVES.get((state, what), state)


class Heart:
    """The heartbeat of one connection.

    Use it from one thread at a time. Where one thread sends and another receives, hold a lock
    in each call, and all the way from `due` until `sent` has returned: the answer can arrive
    before the call that sent the question comes back, and is only known once `sent` was called.

    Args:
        heartbeat: What is sent, how often, and what is the answer.
        now: The present instant. The stream is taken to stand between two messages.
    """

    __slots__ = (
        "_answers",
        "_asked_at",
        "_due_at",
        "_failure",
        "_is_over",
        "_looked_at",
        "_lost_at",
        "_n_owed",
        "_state",
        "heartbeat",
        "n_answered",
        "n_sent",
        "rtt",
    )

    def __init__(self, heartbeat: Heartbeat, now: float) -> None:
        self.heartbeat = heartbeat
        self.rtt: float | None = None
        """Seconds that the last answer took; None until there was one."""
        self.n_sent = 0
        self.n_answered = 0
        self._state = BeatState.WAITING
        self._answers: Answers | None = answers_for(heartbeat.expect)
        self._n_owed = 0
        self._is_over = False
        self._failure: Exception | None = None
        self._asked_at = self._looked_at = now
        self._lost_at = math.inf
        self._due_at = now + heartbeat.every

    @property
    def state(self) -> BeatState:
        """How it stands."""
        return self._state

    @property
    def next_at(self) -> float | None:
        """The instant at which to call `check` and `due` again, if nothing else happens; None: never.

        It is later than the last such call, so that no loop spins on it. Bytes that flow
        only move it away, so whoever comes too early merely comes in vain.
        """
        if self._is_over or self._state is BeatState.LOST:
            return None
        at = self._lost_at if self._state is BeatState.ASKED else self._due_at
        return at if at > self._looked_at else self._looked_at + TICK

    def moved(self, now: float) -> None:
        """Takes note that the application sent or received something: waiting starts anew. It answers no question."""
        self._due_at = now + self.heartbeat.every

    def due(self, now: float, *, is_excused: bool) -> bytes | None:
        """Gives the bytes to send now, if any. Then send them without blocking, and call `sent`.

        What cannot be sent now is left; `due` gives it again.

        Args:
            now: The present instant.
            is_excused: Bytes lie unread in our own receive queue, or our event loop is late.
        """
        if self._state is not BeatState.WAITING or self._is_over or now < self._due_at:
            return None
        self._looked_at = now
        if self._answers is not None and not self._answers.is_ready:
            self.moved(now)
            return None
        try:
            return None if is_excused else _made(self.heartbeat.payload)
        except Exception as error:  # noqa: BLE001 - a function of the application's; nothing of ours may reach it
            self._fail(error)
            return None

    def sent(self, now: float) -> None:
        """Takes note that what `due` gave was sent, all of it."""
        self.n_sent += 1
        self.moved(now)
        if self._answers is None:
            self._state = after(self._state, Happening.NOTICE)
            return
        self._n_owed += 1
        if self._state is BeatState.WAITING:
            self._asked_at = now
            self._await(now)
            self._state = after(self._state, Happening.QUESTION)

    def check(self, now: float, *, is_excused: bool) -> BeatState:
        """Tells how it stands now.

        Args:
            now: The present instant.
            is_excused: As for `due`. The time since the last look does not count then.
        """
        if self._state is BeatState.ASKED:
            if is_excused:
                self._lost_at += max(0.0, now - self._looked_at)
            elif now >= self._lost_at:
                self._state = after(self._state, Happening.SILENCE)
            self._looked_at = max(now, self._looked_at)
        return self._state

    def receive(self, data: bytes, now: float, *, may_answer: bool = True) -> bytes:
        """Takes in all bytes that arrive, and gives what is the application's.

        Nothing is lost or reordered, but it can be less than what came (nothing at all is not
        the end of the stream), and later more, as what may be an answer is held back.

        Args:
            data: What has arrived; b"" is the end of the stream, and gives what was held back.
            now: The present instant.
            may_answer: If not, all of it is the application's, and is not held back.
        """
        if not data:
            self.stop()
            return b"" if self._answers is None else self._answers.release()
        rest, n = self._take(data, self._n_owed if may_answer else 0)
        self.moved(now)
        if n:
            self._answered(n, now)
        elif self._state is BeatState.ASKED:
            self._await(now)
        return rest

    def stop(self) -> None:
        """Asks no more, and loses nobody any more; an answer that is owed is still taken out."""
        self._is_over = True
        self._state = after(self._state, Happening.END)

    def silence(self, now: float) -> float:
        """Tells for how many seconds, those excused not counted, the peer owes a sign of life; 0 if it owes none."""
        if self._state is BeatState.WAITING:
            return 0.0
        return max(0.0, now - self._lost_at + (self.heartbeat.timeout or 0.0))

    def take_failure(self) -> Exception | None:
        """Gives, once, what a function of the application's did wrong. The heartbeat has stopped for it."""
        failure, self._failure = self._failure, None
        return failure

    def _await(self, now: float) -> None:
        self._looked_at = now
        self._lost_at = now + (self.heartbeat.timeout or math.inf)

    def _answered(self, n: int, now: float) -> None:
        self.n_answered += n
        self._n_owed -= n
        if self._state is BeatState.ASKED:
            self.rtt = max(0.0, now - self._asked_at)
        self._state = after(self._state, Happening.ANSWER)

    def _take(self, data: bytes, n_owed: int) -> tuple[bytes, int]:
        if self._answers is None:
            return data, 0
        try:
            return self._answers.take(data, n_owed)
        except Exception as error:  # noqa: BLE001 - as above
            self._answers = None
            self._fail(error)
            return data, 0

    def _fail(self, error: Exception) -> None:
        self._failure = error
        self.stop()


def _made(payload: bytes | Callable[[], bytes]) -> bytes:
    """Makes the bytes to send; of a function whose type hints may be wrong."""
    made: object = payload if isinstance(payload, bytes) else payload()
    if isinstance(made, bytes) and made:
        return made
    message = f"heartbeat.payload() gave {type(made).__name__}, not bytes, 1 or more"
    raise TypeError(message)
