"""How is the history of a connection kept between two looks? Packed, as long as nothing is under way.

Of 10,000 connections that are looked at, few are ever ended. Packed, a history takes less than half of what it takes as
a tuple with its numbers; packing and unpacking takes less than the look itself. `benchmarks/bench_guard_memory.py`.
"""

import struct

from sockguard._core.connection import Connection, Step

__all__ = ["Resting", "rest", "wake"]

Resting = bytes | Connection
"""A history as it is kept: packed, or as it is."""

_PLAIN = struct.Struct("=Q??ddBQQdddd?")
_pack, _unpack = _PLAIN.pack, _PLAIN.unpack
_new = tuple.__new__
_UNREAD = Connection._fields.index("unread")
_MOVED_AT = Connection._fields.index("moved_at")
_HUNG_UP_AT = Connection._fields.index("hung_up_at")
_IS_QUIET = Connection._fields.index("is_quiet")
_QUEUES = (0, 0, False)
_COURSE = (None, Step.NONE, 0.0, None, False)
"""What stands before `moved_at` and behind `is_quiet` in a history that is packed."""


def rest(connection: Connection) -> Resting:
    """Packs a history; gives it as it is while bytes wait on either side, or more has happened to it than looks."""
    is_plain = connection[_UNREAD:_MOVED_AT] == _QUEUES and connection[_IS_QUIET + 1 :] == _COURSE
    if not is_plain or connection.hung_up_at is not None:
        return connection
    try:
        return _pack(*connection[:_UNREAD], *connection[_MOVED_AT:_HUNG_UP_AT], connection.is_quiet)
    except struct.error:  # a number beyond what the kernel counts
        return connection


def wake(history: Resting) -> Connection:
    """Gives a history back, exactly as it was."""
    if isinstance(history, Connection):
        return history
    told = _unpack(history)
    return _new(Connection, (*told[:_UNREAD], *_QUEUES, *told[_UNREAD:-1], None, told[-1], *_COURSE))
