"""What does the kernel know of one TCP connection? TCP_INFO, decoded for every kernel.

`struct tcp_info` (include/uapi/linux/tcp.h) only ever grows at its end; the length tells
which fields the running kernel has. 104 bytes is the oldest form still met (Linux 2.6 to
4.1, and what gVisor and some sandboxes copy), 232 came with 4.19, 280 is Linux 6.18.
"""

import _socket
import socket
import struct

from sockguard._core.facts import TcpInfo
from sockguard.errors import InternalError

__all__ = ["MIN_LENGTH", "parse_tcp_info", "read_tcp_info"]

MIN_LENGTH = 104

_FIELDS = struct.Struct(
    "=B x B B 4x"  # 0: state, -, retransmits, probes, backoff, options, wscales
    "16x I I 12x"  # 8: rto, ato, snd_mss, rcv_mss; 24: unacked, sacked; lost, retrans, fackets
    "I 4x I I"  # 44: last_data_sent, (last_ack_sent is always 0), last_data_recv, last_ack_recv
    "8x I 32x"  # 60: pmtu, rcv_ssthresh; 68: rtt; rttvar ... total_retrans
    "16x Q Q"  # 104: pacing rates; 120: bytes_acked, bytes_received
    "I I I"  # 136: segs_out, segs_in, notsent_bytes
    "52x Q Q"  # 148: min_rtt ... delivered_ce; 200: bytes_sent, bytes_retrans
)
_SIZE = _FIELDS.size
_unpack = _FIELDS.unpack_from
_new = tuple.__new__
_OPTIONAL_ENDS = (128, 136, 140, 144, 148, 208, 216)
"""Offset behind each field that may be missing, in the order of `TcpInfo`."""
_N_MANDATORY = len(TcpInfo._fields) - len(_OPTIONAL_ENDS)
_READ_LENGTH = 512


def parse_tcp_info(raw: bytes, start: int = 0, end: int | None = None) -> TcpInfo:
    """Decodes `struct tcp_info` of any kernel; fields beyond its end become None.

    Args:
        raw: Bytes that hold it.
        start: Where it begins.
        end: Where it ends; None for the end of the bytes.

    Raises:
        InternalError: It is shorter than any kernel's.
    """
    length = (len(raw) if end is None else end) - start
    if length < MIN_LENGTH:
        msg = f"TCP_INFO has {length} bytes, {MIN_LENGTH} is the least that a kernel gives"
        raise InternalError(msg)
    if length < _SIZE:
        return _parse_short(raw[start:end])
    (
        state, retransmits, probes, unacked, sacked, sent, received, acked, rtt,
        bytes_acked, bytes_received, segs_out, segs_in, notsent_bytes, bytes_sent, bytes_retrans,
    ) = _unpack(raw, start)  # fmt: skip
    return _new(
        TcpInfo,
        (
            state, retransmits, probes, unacked, sacked, sent / 1e3, received / 1e3, acked / 1e3, rtt / 1e6,
            bytes_acked, bytes_received, segs_out, segs_in, notsent_bytes, bytes_sent, bytes_retrans,
        ),
    )  # fmt: skip


def _parse_short(raw: bytes) -> TcpInfo:
    info = parse_tcp_info(raw.ljust(_SIZE, b"\0"))
    known = [value if end <= len(raw) else None for value, end in zip(info[_N_MANDATORY:], _OPTIONAL_ENDS, strict=True)]
    return _new(TcpInfo, (*info[:_N_MANDATORY], *known))


def read_tcp_info(sock: _socket.socket) -> TcpInfo:
    """Asks the kernel for TCP_INFO of a socket (tcp(7)).

    Raises:
        OSError: It is no TCP socket, or closed.
    """
    return parse_tcp_info(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _READ_LENGTH))
