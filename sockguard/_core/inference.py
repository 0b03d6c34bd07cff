"""What follows from the facts of one connection: how old its silence is, and who opened it."""

from enum import StrEnum
from typing import NamedTuple

from sockguard._core.facts import SocketFacts, TcpInfo, TcpState

__all__ = ["Age", "AgeKind", "Side", "age_of", "made_progress", "opened_by_us"]

_CLOSE = TcpState.CLOSE

ANSWER_TIME = 1.0
"""Seconds after our last data in which a packet of the peer may be its mere acknowledgement.

Delayed acknowledgements take up to 200 ms and the first retransmission comes after 1 s at
the latest on a healthy path (RFC 6298, 2.1); later ones renew `last_data_sent` themselves.
"""


class Side(StrEnum):
    """Which end of the connection this socket is."""

    SERVER = "server"
    CLIENT = "client"


class AgeKind(StrEnum):
    """How far an age can be trusted."""

    EXACT = "exact"
    """The peer's last packet was its FIN: nothing that it could have answered went out since."""
    ABOUT = "about"
    """The peer's last packet is known, but not that it was the FIN."""
    AT_LEAST = "at_least"
    """Something may have been answered after the FIN, so the truth is this or more."""
    UNKNOWN = "unknown"


class Age(NamedTuple):
    """Since when a connection stands still."""

    seconds: float | None
    kind: AgeKind


UNKNOWN_AGE = Age(None, AgeKind.UNKNOWN)


def age_of(facts: SocketFacts) -> Age:
    """Tells for how long the peer has been silent, and so how long it is that it hung up.

    The peer of a CLOSE_WAIT socket has sent its FIN, and afterwards sends only
    acknowledgements. So its last packet is the FIN, unless we sent data that it could
    acknowledge, or keepalive probes that it could answer. Either way a connection
    that gets its data through to the peer is young, however long ago the FIN came: such
    a connection makes progress and is no leak. Where it was watched for longer than that
    without moving, as answered probes are no progress, the time of watching counts. A
    connection that is over may have ended at any time since its last packet, as a reset
    renews nothing: its age is at most that, unless it was watched.
    """
    info = facts.info
    watched = facts.still_for
    if watched is not None and (info is None or watched > info.last_ack_recv or facts.state == _CLOSE):
        return Age(watched, AgeKind.AT_LEAST)
    if info is None:
        return UNKNOWN_AGE
    silence = info.last_ack_recv
    if facts.state == _CLOSE:
        return Age(silence, AgeKind.ABOUT)
    if facts.is_probed:
        return Age(silence, AgeKind.AT_LEAST)
    if info.bytes_sent == 0:
        return Age(silence, AgeKind.EXACT)
    if info.last_data_sent - silence > ANSWER_TIME:
        return Age(silence, AgeKind.ABOUT)
    return Age(silence, AgeKind.AT_LEAST)


def opened_by_us(facts: SocketFacts) -> bool | None:
    """Tells whether this end called connect(), from the kernel's byte counts alone.

    An active open gets its SYN acknowledged and counts that as one byte of `bytes_acked`;
    a passive open is born with its SYN acknowledged and does not (net/ipv4/tcp_input.c,
    `tcp_rcv_synsent_state_process` against `tcp_check_req`). So acknowledged bytes exceed
    the payload that is known to have arrived by one, or by none. Of a connection that is
    over this cannot be said: its send queue is gone, and our FIN may have been counted.

    Returns:
        None where the counts are missing (before Linux 4.19) or do not decide it.
    """
    info = facts.info
    if (
        facts.state == _CLOSE
        or info is None
        or None in (info.bytes_acked, info.bytes_sent, info.bytes_retrans, info.notsent_bytes)
    ):
        return None
    in_flight = facts.send_queue - info.notsent_bytes  # type: ignore[operator]
    delivered = info.bytes_sent - info.bytes_retrans - in_flight  # type: ignore[operator]
    return _BY_SURPLUS.get(info.bytes_acked - delivered)  # type: ignore[operator]


_BY_SURPLUS = {0: False, 1: True}
"""Acknowledged bytes beyond the payload -> whether we opened it."""


def made_progress(before: SocketFacts, after: SocketFacts) -> bool:
    """Tells whether bytes moved between two looks at one connection, in either direction.

    Outwards that is what the peer acknowledged, inwards what the application *read*
    (arrived minus still queued): a slow consumer that works off a full queue is alive.
    """
    if before.recv_queue > after.recv_queue or before.send_queue > after.send_queue:
        return True
    if before.info is None or after.info is None:
        return False
    return after.info.bytes_acked != before.info.bytes_acked or _read(after, after.info) != _read(before, before.info)


def _read(facts: SocketFacts, info: TcpInfo) -> int:
    return (info.bytes_received or 0) - facts.recv_queue
