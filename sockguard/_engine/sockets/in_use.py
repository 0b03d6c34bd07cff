"""Is a thread inside of a call on this socket now? Asked before what its program has not closed is closed.

Danger. A number that is closed while a thread is inside of a call on it is given to another
connection, whose bytes that thread then takes or sends. The socket object itself is safe:
closing and detaching put -1 in the place of the number, in one step, and no call of
`_socket` begins, or goes on after a signal, with a number that it did not read anew. What
remains is a thread that had read the number just before and has not reached the kernel yet.

Choice. The stacks of all threads are looked at: twice, before the number is taken off the
object and after. Who is not inside then does not have it, and cannot get it any more. Only
the top of a stack is of interest: what calls into C is there. A look costs 0.15 us a thread, and is
needed only for connections that are ended; healthy calls pay nothing. (Flags that each call
sets cost it 50 ns, and two threads in the same call would defeat them; a count costs twice that.)

Price. A program that calls `_socket.socket.recv(sock)` and the like by itself is not seen. And where
stacks cannot be looked at (frames.py), what is not closed by its program stays open.
"""

import _socket
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any, TypeVar

from sockguard._engine.frames import frames_of_threads

__all__ = ["calls_into_c", "is_in_use", "take_off"]

_Raw = _socket.socket
_detach = _Raw.detach
_family, _type, _proto = _Raw.family.__get__, _Raw.type.__get__, _Raw.proto.__get__
_codes: set[CodeType] = set()
_F = TypeVar("_F", bound=Callable[..., Any])


def calls_into_c(function: _F) -> _F:
    """Marks a function that calls methods of `_socket.socket` on a local variable named `self` or `sock`."""
    _codes.add(function.__code__)
    return function


def is_in_use(sock: object) -> bool:
    """Tells whether a thread, other than the one that asks, is inside of a call on a socket; or whether it may be."""
    frames = frames_of_threads()
    if frames is None:
        return True
    try:
        return any(_is_call_on(sock, frame) for frame in frames.values())
    finally:
        del frames  # one of them has this one: a cycle


def _is_call_on(sock: object, frame: FrameType) -> bool:
    if frame.f_code not in _codes:
        return False
    names = frame.f_locals
    return names.get("self") is sock or names.get("sock") is sock


def take_off(sock: Any) -> _socket.socket | None:
    """Takes the descriptor off a socket object, which has none afterwards; gives it as a socket of our own.

    None if it has none. The caller closes what is given, but not while `is_in_use`.
    """
    family, kind, proto = _family(sock), _type(sock), _proto(sock)
    fd = _detach(sock)
    return None if fd < 0 else _Raw(family, kind, proto, fd)
