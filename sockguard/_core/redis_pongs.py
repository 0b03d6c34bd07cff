r"""Which bytes from a Redis server answer our PING? Reply by reply through the stream (RESP2 and RESP3).

`+PONG\r\n` may well be a line of somebody's data, and a client that lacks those seven bytes
reads everything after them wrongly; so does one that gets a reply it never asked for. Hence:

- While an answer is owed, replies are followed by their lengths, and only one that stands by
  itself is an answer. Otherwise nothing is looked at but whether a line has just ended.
- On a RESP2 connection that has subscribed, Redis answers by an array.
- Where Redis refuses commands altogether, it refuses PING, too; that refusal is our answer,
  and not the application's (`processCommand` in src/server.c of Redis 7.0). If its own
  command was refused just before, that got the same words, so it matters not which is taken.

The stream is taken to stand between two replies when the question is sent, as nothing has
arrived for so long. Should it not, each line is tried for the beginning of a reply.
"""

from sockguard._core.answers import Answers

__all__ = ["MAX_LINE", "PING", "RedisPongs"]

PING = b"*1\r\n$4\r\nPING\r\n"
"""An array, as proxies such as twemproxy do not take the short form."""
PONG = b"+PONG\r\n"
SUBSCRIBED_PONG = b"*2\r\n$4\r\npong\r\n$0\r\n\r\n"
REFUSALS = (b"-NOAUTH ", b"-LOADING ", b"-MASTERDOWN ", b"-MISCONF ", b"-BUSY ")
NO_PERMISSION, COMMAND = b"-NOPERM ", b"'ping'"
END = b"\r\n"
BLOBS, AGGREGATES, MAPS, ATTRIBUTES = b"$=!", b"*~>", b"%", b"|"
MAX_LINE = 1024
"""Bytes of a line that are held back until it is complete; the longest refusal (MISCONF, in 7.0) has 330."""
MAX_DIGITS = 19
"""Of a length: Redis has 64 bits for it."""


class RedisPongs(Answers):
    """Takes the replies to our own PING out of what a Redis server sends."""

    __slots__ = ("_held", "_is_in_line", "_n_elements", "_n_to_skip")

    def __init__(self) -> None:
        self._held = b""
        self._is_in_line = False
        """The next byte does not begin a line."""
        self._n_to_skip = 0
        """Bytes of a blob that are still to come."""
        self._n_elements = 0
        """Elements of arrays that are still to come."""

    def take(self, data: bytes, n_owed: int) -> tuple[bytes, int]:
        """Takes answers out, and holds back a line that is not complete, while one is owed."""
        stream, passed, at, n = self._held + data, b"", 0, 0
        self._held = b""
        while n < n_owed and at < len(stream):
            end, is_answer = self._step(stream, at)
            if end == at:
                self._held, stream = stream[at:], stream[:at]
            elif is_answer:
                passed, stream, at, n = passed + stream[:at], stream[end:], 0, n + 1
            else:
                at = end
        if n == n_owed:
            self._rest(stream)
        return passed + stream, n

    def release(self) -> bytes:
        """Gives what was held back."""
        held, self._held = self._held, b""
        return held

    def _rest(self, stream: bytes) -> None:
        """Stops following the replies; what is left of the stream is looked at no further."""
        self._n_to_skip = self._n_elements = 0
        if stream:
            self._is_in_line = not stream.endswith(b"\n")  # the "\r" may have come before

    def _step(self, stream: bytes, at: int) -> tuple[int, bool]:
        """Goes over one line or blob; gives its end, the same place if more is needed, and whether it is an answer."""
        if self._n_to_skip:
            skipped = min(self._n_to_skip, len(stream) - at)
            self._n_to_skip -= skipped
            return at + skipped, False
        if self._is_in_line:
            end = stream.find(b"\n", at) + 1
            self._is_in_line = not end
            return end or len(stream), False
        begun = stream[at : at + len(SUBSCRIBED_PONG)]
        if not self._n_elements and SUBSCRIBED_PONG.startswith(begun):
            return at + len(begun) * (begun == SUBSCRIBED_PONG), begun == SUBSCRIBED_PONG
        return self._step_line(stream, at)

    def _step_line(self, stream: bytes, at: int) -> tuple[int, bool]:
        end = stream.find(END, at) + len(END)
        if end < len(END):
            self._is_in_line = len(stream) - at > MAX_LINE
            return len(stream) if self._is_in_line else at, False
        line = stream[at:end]
        if not self._n_elements and _is_answer(line):
            return end, True
        self._enter(line[:1], _number(line[1:-2]))
        return end, False

    def _enter(self, kind: bytes, n: int) -> None:
        """Takes note of what a line announces; one that announces nothing is a reply by itself."""
        self._n_elements = max(0, self._n_elements - 1)
        if kind in BLOBS and n >= 0:
            self._n_to_skip = n + len(END)
        elif kind in AGGREGATES:
            self._n_elements += max(0, n)
        elif kind in MAPS:
            self._n_elements += 2 * max(0, n)
        elif kind in ATTRIBUTES:
            self._n_elements += 2 * max(0, n) + 1  # and the value that they are of


def _number(text: bytes) -> int:
    """Reads a length; -1, as for a null, if it is none."""
    return int(text) if text.isdigit() and len(text) <= MAX_DIGITS else -1


def _is_answer(line: bytes) -> bool:
    return line == PONG or line.startswith(REFUSALS) or (line.startswith(NO_PERMISSION) and COMMAND in line)
