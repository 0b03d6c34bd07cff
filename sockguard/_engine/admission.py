"""What is asked of a connection when the guard begins to watch it."""

from typing import Any

from sockguard._core.facts import TcpState
from sockguard._core.inference import opened_by_us
from sockguard._engine.record import Record
from sockguard._kernel.activity import was_ever_connected
from sockguard._kernel.borrow import Gone
from sockguard._kernel.one_socket import read_facts
from sockguard._kernel.tcp_info import read_tcp_info

__all__ = ["correct_side", "is_established"]

_CLOSE, _SYN_SENT, _LISTEN = int(TcpState.CLOSE), int(TcpState.SYN_SENT), int(TcpState.LISTEN)


def correct_side(record: Record, sock: Any) -> None:
    """Makes sure of the side of a connection whose object let go of it before it was first looked at.

    Most often it was handed on; but it may have been closed, and its number given to another.
    """
    facts = read_facts(sock)
    was_opened_by_us = opened_by_us(facts) if facts is not None else None
    if was_opened_by_us is not None and was_opened_by_us == record.is_server:
        record.is_server, record.loop, record.site, record.terms = not was_opened_by_us, None, None, None


def is_established(sock: Any) -> bool:
    """Tells whether a connection is made; a socket that listens is none, and never will be.

    Raises:
        Gone: It listens.
        OSError: It is no TCP socket.
    """
    state = read_tcp_info(sock).state
    if state == _LISTEN:
        raise Gone
    return state != _SYN_SENT and (state != _CLOSE or was_ever_connected(sock))
