"""How is a silent peer probed? By the kernel (Keepalive), or by the application's own protocol (Heartbeat)."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from sockguard._core.answers import Expectation
from sockguard._core.policy_fields import Checked, about, callable_or_bytes, number, read_number, record, whole
from sockguard._core.pong_frames import PongFrames, ping
from sockguard._core.redis_pongs import PING, RedisPongs
from sockguard.errors import PolicyError

__all__ = ["HEARTBEAT", "KEEPALIVE", "Heartbeat", "Keepalive"]

SPAN = number("seconds", can_be_off=False)
# What the kernel takes, tcp(7) and net/ipv4/tcp.c: MAX_TCP_KEEPIDLE, MAX_TCP_KEEPINTVL, MAX_TCP_KEEPCNT, and an int
# of milliseconds.
PROBE_SECONDS = whole("seconds", 1, 32767)
PROBES = whole("probes", 1, 127)
USER_TIMEOUT = number("seconds", most=2147483)


@dataclass(frozen=True, slots=True)
class Keepalive(Checked):
    """Asks the kernel to probe silent peers (SO_KEEPALIVE), so that one who vanished without a word is noticed."""

    PREFIX = "keepalive."

    idle: int = field(default=60, metadata=about(
        PROBE_SECONDS, "Silence before the first probe.",
        "Well under the 350 s after which NAT gateways of AWS forget a silent connection; the system's 7200 s is not. "
        "Go has 15 s, which wakes mobile devices too often (golang/go#48622)."
    ))  # fmt: skip
    interval: int = field(default=15, metadata=about(
        PROBE_SECONDS, "Between two probes.", "As Go. The system has 75 s."
    ))  # fmt: skip
    count: int = field(default=4, metadata=about(
        PROBES, "Unanswered probes before the connection is given up.",
        "A peer is given up after two minutes, and not for one or two packets that are lost."
    ))  # fmt: skip
    user_timeout: float | None = field(default=None, metadata=about(
        USER_TIMEOUT,
        "TCP_USER_TIMEOUT: how long sent data may stay unacknowledged. It takes the place of `count` for probes.",
        "It also ends connections to peers that live and merely do not read."
    ))  # fmt: skip

    def __post_init__(self) -> None:
        Checked.__post_init__(self)  # super() does not work in a class with slots=True before Python 3.14
        least = self.idle + self.interval
        if self.user_timeout is not None and self.user_timeout < least:
            remedy = f"it overrides count, so give at least idle + interval, {least} s, for one probe to be answered"
            raise PolicyError("keepalive.user_timeout", self.user_timeout, remedy)

    @property
    def detection_time(self) -> float:
        """Seconds after which a silent peer is given up that answers no probe, on a connection with nothing to send.

        The kernel looks when a probe is due, at `idle` and each `interval` after it. With a
        user_timeout it gives up at the first such look beyond it (net/ipv4/tcp_timer.c,
        `tcp_keepalive_timer`).
        """
        if self.user_timeout is None:
            return float(self.idle + self.interval * self.count)
        return float(self.idle + self.interval * math.ceil((self.user_timeout - self.idle) / self.interval))


@dataclass(frozen=True, slots=True)
class Heartbeat(Checked):
    """Asks the peer itself for a sign of life, where the protocol has one: bytes are sent, and an answer awaited."""

    PREFIX = "heartbeat."

    REQUIRED = ("payload", "every")

    payload: bytes | Callable[[], bytes] = field(metadata=about(
        callable_or_bytes("bytes, or a function that makes them"), "What is sent."
    ))  # fmt: skip
    every: float = field(metadata=about(SPAN, "Silence in both directions after which it is sent."))
    timeout: float | None = field(default=None, metadata=about(
        number("seconds"),
        "Silence after it was sent that means that the peer is lost. Needed with `expect`, of no use without.",
        "How long an answer may take depends on the peer."
    ))  # fmt: skip
    expect: Expectation = field(default=None, metadata=about(
        callable_or_bytes("the bytes of the answer, or a function that knows it", can_be_off=True),
        "The answer. Bytes: exactly these, and they are taken out of what the application receives. A function: it is "
        "shown each chunk that arrives while an answer is owed, and says whether that is it; the application receives "
        "all. None: no answer is awaited, only an error of the connection tells.",
        "There are protocols where nobody answers: a comment line, a NOP."
    ))  # fmt: skip

    def __post_init__(self) -> None:
        Checked.__post_init__(self)  # not super(): as above
        if self.expect is not None and self.timeout is None:
            raise PolicyError("heartbeat.timeout", None, "with expect, give the seconds that an answer may take")

    @classmethod
    def redis(cls, every: float = 30, timeout: float = 5) -> Self:
        """Makes the heartbeat of a client of Redis: PING, whose answer the application never sees.

        It also suits a connection that subscribes. It does not suit one that waits in BLPOP or
        another blocking command for longer than `every`, as Redis answers nothing meanwhile, nor
        one that pauses as long between MULTI and EXEC.

        Args:
            every: Seconds of silence before it.
            timeout: Seconds of silence after it that mean that the server is lost.
        """
        return cls(PING, every, timeout, RedisPongs)

    @classmethod
    def telnet_nop(cls, every: float = 60) -> Self:
        """Makes the heartbeat of a telnet connection: the command NOP of RFC 854, which nobody answers.

        Args:
            every: Seconds of silence before it.
        """
        return cls(b"\xff\xf1", every)

    @classmethod
    def sse(cls, every: float = 15) -> Self:
        """Makes the heartbeat of a server of events (text/event-stream): a comment line, which nobody answers.

        The HTML standard recommends one about every 15 seconds, against proxies that drop
        silent connections. It suits a response that is not chunked and has begun.
        """
        return cls(b":\n\n", every)

    @classmethod
    def websocket(cls, every: float = 20, timeout: float = 20, mask: Callable[[], bytes] | None = None) -> Self:
        """Makes the heartbeat of a WebSocket (RFC 6455): an empty ping, answered by any pong.

        It begins with the handshake or the first frame that the peer sends, and ends with its
        close frame. The application's own library receives the pongs too, and ignores them, as
        it has to (5.5.3). HTTP/2 and what is encrypted cannot be read, so nothing is sent there.

        Args:
            every: Seconds of silence before a ping.
            timeout: Seconds of silence after it.
            mask: A client has to give a function of four random bytes or more, such as `secrets.token_bytes` (5.3);
                a server must not.
        """
        if mask is not None and not callable(mask):
            raise PolicyError("heartbeat.mask", mask, "give a function of random bytes, secrets.token_bytes; or None")
        return cls(ping(mask), every, timeout, PongFrames)

    @classmethod
    def line(
        cls,
        question: bytes,
        answer: bytes | None = None,
        end: bytes = b"\n",
        *,
        every: float = 30,
        timeout: float | None = None,
    ) -> Self:
        """Makes the heartbeat of a protocol of lines.

        Args:
            question: The line to send, without its end.
            answer: The line that the peer answers, without its end; None: it answers nothing.
            end: Ends each line.
            every: Seconds of silence before a question.
            timeout: Seconds of silence after it, 10 if not given.

        Raises:
            PolicyError: One is empty, is no bytes or holds the end of a line.
        """
        end = _line("end", end)
        payload = _line("question", question, end) + end
        if answer is None:
            return cls(payload, every, timeout)
        return cls(payload, every, 10 if timeout is None else timeout, _line("answer", answer, end) + end)


def _line(name: str, value: object, end: bytes | None = None) -> bytes:
    if isinstance(value, bytes) and value and (end is None or end not in value):
        return value
    raise PolicyError(
        "heartbeat.line." + name, value, "give bytes, 1 or more" + ", without the end" * (end is not None)
    )


def _read_keepalive(text: str) -> object:
    if text.lower() == "on":
        return Keepalive()
    numbers: list[Any] = [read_number(part.strip()) for part in text.split(",")]
    return Keepalive(*numbers) if len(numbers) in (3, 4) else text


def _keepalive_of(value: object) -> object:
    if isinstance(value, Mapping):
        return Keepalive.from_table(value)
    return _read_keepalive("on" if value is True else value) if value is True or isinstance(value, str) else value


def _heartbeat_of(value: object) -> object:
    return Heartbeat.from_table(value) if isinstance(value, Mapping) else value


KEEPALIVE = record(
    "Keepalive(...), as text idle,interval,count such as 60,15,4, or on", Keepalive, _read_keepalive, _keepalive_of
)
HEARTBEAT = record("Heartbeat(...), or a table heartbeat in a file", Heartbeat, from_table=_heartbeat_of)
