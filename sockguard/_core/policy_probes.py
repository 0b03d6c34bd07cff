"""How is a silent peer probed? By the kernel (Keepalive), or by the application's own protocol (Heartbeat)."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sockguard._core.policy_fields import Checked, about, callable_or_bytes, number, read_number, record, whole
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
    """Asks the peer itself for a sign of life, for protocols that have one: it sends bytes and waits for any answer."""

    PREFIX = "heartbeat."

    REQUIRED = ("payload", "every", "timeout")

    payload: bytes | Callable[[], bytes] = field(metadata=about(
        callable_or_bytes("bytes, or a function that makes them"), "What is sent."
    ))  # fmt: skip
    every: float = field(metadata=about(SPAN, "Silence after which it is sent."))
    timeout: float = field(metadata=about(SPAN, "Silence after it was sent that means that the peer is lost."))
    expect: bytes | Callable[[bytes], bool] | None = field(default=None, metadata=about(
        callable_or_bytes("bytes that the answer begins with, or a function that knows it", can_be_off=True),
        "What counts as the answer. None: whatever arrives.", "Whoever sends anything is alive."
    ))  # fmt: skip


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
