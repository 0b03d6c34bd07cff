"""Is an event loop to have this socket, and when can it close it? asyncio's loops and uvloop's.

A loop of a wider scope than a test stands still while the test is judged, so what it was told
to close stays open until it runs again. uvloop's objects are made in C: what is known of them is
found by who refers to them.
"""

import gc
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from sockguard._engine.attributes import module_of
from sockguard._engine.blame.births import Birth
from sockguard._engine.blame.ledger import Suspect
from sockguard._engine.instances import instances_of
from sockguard._kernel.own_sockets import read_inode

__all__ = ["is_event_loop", "is_of_loop", "things_of_uvloop", "transports", "without_closing"]

LOOPS = frozenset(
    {"asyncio.unix_events", "asyncio.base_events", "asyncio.selector_events", "asyncio.windows_events", "uvloop"}
)
ITERATIONS, WHILE = 10, 0.1
"""How often a loop goes round, and then for how many seconds on, before it must have seen that a peer hung up."""


class _Paused:
    """An event loop that stands still between two tests, and has to run before a socket of its can be closed."""

    def __init__(self, loop: Any, *, is_told_to_close: bool) -> None:
        self._loop = loop
        self._remaining = ITERATIONS
        self._has_run = False
        if not is_told_to_close:
            loop.call_soon(self._tick)

    def _tick(self) -> None:
        """Is called by the loop: some iterations on end, and once more after a while."""
        self._remaining -= 1
        if self._remaining > 0:
            self._loop.call_soon(self._tick)
        elif self._remaining == 0:
            self._loop.call_later(WHILE, self._tick)
        else:
            self._has_run = True

    def is_over(self) -> bool:
        """Tells whether the loop had its chance, or will not run again."""
        return self._has_run or bool(self._loop.is_closed())


def without_closing(suspects: list[Suspect]) -> list[Suspect]:
    """Leaves out what its event loop will close, or can see the end of, only when it runs again.

    A loop of a wider scope than the test stands still while the test is judged. So a
    transport that was told to close is left to it; and where the peer has hung up, it first
    gets the time to notice.
    """
    if not suspects or "asyncio" not in sys.modules:
        return suspects
    transports = dict(_open_transports([suspect.birth for suspect in suspects]))
    rest = []
    for suspect in suspects:
        suspect.birth.waits = _pause_of(suspect, transports.get(suspect.birth.inode))
        if suspect.birth.waits is None and not is_of_loop(suspect.birth):
            rest.append(suspect)
    return rest


def _pause_of(suspect: Suspect, transport: Any) -> _Paused | None:
    if transport is None or suspect.birth.has_waited:
        return None
    loop = _loop_of(transport)
    if loop is None or loop.is_closed() or loop.is_running():
        return None
    is_closing = transport.is_closing()
    if not is_closing and not suspect.sketch.is_sick:
        return None
    suspect.birth.has_waited = not is_closing
    return _Paused(loop, is_told_to_close=is_closing)


def _loop_of(transport: Any) -> Any:
    """Finds the loop of a transport. Those of uvloop do not tell, so any loop of uvloop that is open is taken."""
    loop = getattr(transport, "_loop", None)
    if loop is None:
        loop = next((found for found in _uvloops() if not found.is_closed()), None)
    return loop


def _uvloops() -> list[Any]:
    kind = getattr(sys.modules.get("uvloop"), "Loop", None)
    return [] if kind is None else instances_of(kind)


def things_of_uvloop() -> Iterator[Any]:
    """Finds all transports and servers of uvloop: each refers to its loop; `instances.py` says why not by a list."""
    for loop in _uvloops():
        yield from (thing for thing in gc.get_referrers(loop) if type(thing).__module__ == "uvloop.loop")


def _open_transports(births: list[Birth]) -> Iterator[tuple[int, Any]]:
    """Finds the transports of sockets: inode and transport."""
    for transport in transports(births):
        try:
            yield read_inode(int(transport.get_extra_info("socket").fileno())), transport
        except Exception:  # noqa: BLE001, S112 - half made or half gone
            continue


def transports(births: list[Birth]) -> Iterable[Any]:
    """Finds the transports that refer to these sockets; of uvloop's, all that there are."""
    objects = [sock for birth in births for sock in birth.objects()]
    referrers = gc.get_referrers(*objects) if objects else []
    owners = gc.get_referrers(*dicts) if (dicts := [thing for thing in referrers if type(thing) is dict]) else []
    yield from (thing for thing in (*referrers, *owners) if _is_transport(type(thing), "asyncio.selector_events"))
    yield from (thing for thing in things_of_uvloop() if _is_transport(type(thing), "uvloop.loop"))


def _is_transport(kind: type, module: str) -> bool:
    return kind.__module__ == module and "Transport" in kind.__name__


def is_of_loop(birth: Birth) -> bool:
    """Tells whether it is one of the sockets by which an event loop is woken up: the loop itself refers to it.

    Those of asyncio and trio are known by the stack that made them already. uvloop makes its
    own in C, and some were made before anybody looked.
    """
    if not sys.modules.keys().isdisjoint(("asyncio", "trio")):
        objects = birth.objects()
        referrers = gc.get_referrers(*objects) if objects else []
        birth.is_internal = birth.is_internal or any(map(_is_loop, referrers))
    return birth.is_internal


def _is_loop(referrer: Any) -> bool:
    if type(referrer) is dict:
        return "_ssock" in referrer or "wakeup_sock" in referrer
    return type(referrer).__name__ == "WakeupSocketpair" or is_event_loop(referrer)


def is_event_loop(thing: Any) -> bool:
    """Tells whether it is an event loop of asyncio or uvloop."""
    return module_of(thing) in LOOPS and hasattr(type(thing), "run_forever")
