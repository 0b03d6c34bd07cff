r"""Which of the bytes that arrive answer our question? Three ways to tell; one takes the answer out of the stream.

TCP has no messages, so where one begins has to be known otherwise. What is known here:

- A look-alike is only taken for an answer while one is owed. At all other times, every
  byte is the application's.
- An answer that ends with a newline (`PONG\n`, `+PONG\r\n`) begins where a line begins.
  All that has arrived is seen here, so that place is known exactly. `NOT PONG\n` is no answer.
- Any other answer can begin anywhere: behind the tail of an earlier message, say.

So it is the first such place after the question, and how TCP has cut the stream plays no
part: not in what is taken out, and not in what is handed on. The price: the end of what has
arrived may be the beginning of an answer, and is held back until more comes; and if the
application's own data can hold the very bytes of the answer, at such a place and between
question and answer, they are mistaken for it. For such a protocol, give a function.
"""

from collections.abc import Callable
from typing import cast

__all__ = ["Answers", "Expectation", "Found", "Judged", "answers_for"]

END_OF_LINE = b"\n"


class Answers:
    """Knows the answers on one connection; this base, with its subclasses, is what `Heart` asks."""

    __slots__ = ()

    @property
    def is_ready(self) -> bool:
        """Whether the peer would understand a question by now."""
        return True

    def take(self, data: bytes, n_owed: int) -> tuple[bytes, int]:
        """Looks at bytes that have arrived.

        Args:
            data: All that has arrived since the last call.
            n_owed: Answers that are still to come.

        Returns:
            What is the application's, and how many answers there were, `n_owed` at most.

        Raises:
            Exception: It cannot tell any more; nothing was held back then.
        """
        raise NotImplementedError

    def release(self) -> bytes:
        """Gives what was held back, at the end of the stream."""
        return b""


class Found(Answers):
    """Finds answers that are known byte by byte, and takes them out of the stream."""

    __slots__ = ("_answer", "_held", "_is_at_start", "_is_line")

    def __init__(self, answer: bytes) -> None:
        self._answer = answer
        self._held = b""
        self._is_line = answer.endswith(END_OF_LINE)
        self._is_at_start = True
        """Whether a line begins with the next byte that is looked at."""

    def take(self, data: bytes, n_owed: int) -> tuple[bytes, int]:
        """Takes answers out, and holds back what may become one."""
        if not n_owed and not self._held:
            self._is_at_start = data.endswith(END_OF_LINE) if data else self._is_at_start
            return data, 0
        stream, passed, n = self._held + data, b"", 0
        while n < n_owed and (at := self._find(stream)) >= 0:
            passed, stream, n = passed + stream[:at], stream[at + len(self._answer) :], n + 1
            self._is_at_start = True
        return passed + self._hold(stream, is_owed=n < n_owed), n

    def release(self) -> bytes:
        """Gives what was held back."""
        held, self._held = self._held, b""
        return held

    def _find(self, stream: bytes) -> int:
        at = stream.find(self._answer)
        while at >= 0 and not self._can_begin(stream, at):
            at = stream.find(self._answer, at + 1)
        return at

    def _can_begin(self, stream: bytes, at: int) -> bool:
        if not self._is_line:
            return True
        return stream[at - 1 : at] == END_OF_LINE if at else self._is_at_start

    def _hold(self, stream: bytes, *, is_owed: bool) -> bytes:
        """Keeps the end of the stream back if it may be the beginning of an answer; gives the rest."""
        at = self._unfinished(stream) if is_owed else len(stream)
        if stream:
            self._is_at_start = at < len(stream) or stream.endswith(END_OF_LINE)
        self._held = stream[at:]
        return stream[:at]

    def _unfinished(self, stream: bytes) -> int:
        """Finds where an answer begins of which the end is missing; the end of the stream if none does."""
        size = len(stream)
        for at in range(max(0, size - len(self._answer) + 1), size):
            if self._answer.startswith(stream[at:]) and self._can_begin(stream, at):
                return at
        return size


class Judged(Answers):
    """Has a function of the application's say whether a chunk holds an answer; all bytes are handed on."""

    __slots__ = ("_judge",)

    def __init__(self, judge: Callable[[bytes], bool]) -> None:
        self._judge = judge

    def take(self, data: bytes, n_owed: int) -> tuple[bytes, int]:
        """Asks the function, while an answer is owed."""
        return data, int(n_owed > 0 and bool(self._judge(data)))


Expectation = bytes | Callable[[bytes], bool] | type[Answers] | None
"""What a heartbeat can expect; a kind of answers is made anew for each connection."""


def answers_for(expect: Expectation) -> Answers | None:
    """Makes what knows the answers on one connection, from what a heartbeat expects; None if it expects none."""
    if expect is None:
        return None
    if isinstance(expect, bytes):
        return Found(expect)
    if isinstance(expect, type) and issubclass(expect, Answers):
        return expect()
    return Judged(cast("Callable[[bytes], bool]", expect))  # a class of some other kind is a function, too
