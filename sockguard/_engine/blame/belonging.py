"""Is this socket really the test's own? Whose it is, if it was opened in a test's time but for somebody else.

A client of session scope opens its connections when they are needed, in the time of some
test; a server of module scope accepts in the time of any. Blaming that test would be wrong.
So before it is blamed it is asked: is there a fixture of a wider scope, still alive, from whose
value the socket can be reached, whose listener it came through, or whose thread opened it?
Then it is that fixture's affair, at its own teardown.
"""

import gc
import sys
from collections.abc import Iterable, Iterator
from types import CellType, FunctionType, MethodDescriptorType, ModuleType
from typing import Any

from sockguard._engine.attributes import module_of
from sockguard._engine.blame.births import Birth, Moment
from sockguard._engine.blame.ledger import Ledger, Owner, Suspect
from sockguard._kernel.own_sockets import read_inode, sketch_descriptor

__all__ = ["give_to_owners", "is_of_loop", "transports"]

MAX_OBJECTS = 200_000
"""Objects that are looked at from the values of fixtures, at most: some 50 ms."""
STRANGE = ("_pytest", "pytest_asyncio", "pluggy")
"""Packages whose objects lead everywhere."""
LOOPS = frozenset(
    {"asyncio.unix_events", "asyncio.base_events", "asyncio.selector_events", "asyncio.windows_events", "uvloop"}
)
GONE = frozenset({"CLOSE_WAIT", "CLOSE"})
ITERATIONS, WHILE = 10, 0.1
"""How often a loop goes round, and then for how many seconds on, before it must have seen that a peer hung up."""


def give_to_owners(suspects: list[Suspect], ledger: Ledger) -> list[Suspect]:
    """Gives the sockets that belong to others to them, and returns the rest."""
    if not suspects:
        return []
    listeners = dict(_listeners(ledger))
    served = [suspect for suspect in suspects if _listener_of(suspect, listeners)]
    abandoned = [suspect for suspect in served if suspect.sketch.state in GONE]
    for suspect in served:
        if suspect not in abandoned:
            suspect.birth.moment = Moment(_listener_of(suspect, listeners))
            ledger.births.elsewhere[suspect.birth.inode] = suspect.birth
    # Of what somebody else's thread opened, the test is charged with no more than what its client has abandoned.
    rest = [
        s for s in suspects if s not in served and (s.birth.moment.owner is s.owner or s.birth.moment.owner.is_over)
    ]
    return _without_closing(abandoned + _without_reached(rest, ledger))


def left_by_clients(suspects: list[Suspect], ledger: Ledger) -> list[Suspect]:
    """Keeps of these those that came through the listener of somebody else than is charged."""
    listeners = dict(_listeners(ledger)) if suspects else {}
    owners = [_listener_of(suspect, listeners) for suspect in suspects]
    found = [s for s, owner in zip(suspects, owners, strict=True) if owner is not None and owner is not s.owner]
    return _without_closing(found)


def _is_alive(owner: Owner, ledger: Ledger) -> bool:
    return owner is ledger.baseline or not owner.is_over


def _listeners(ledger: Ledger) -> Iterator[tuple[tuple[str, str], Owner]]:
    """Lists the listeners that belong to somebody who is alive: protocol and address -> owner."""
    for inode, fds in ledger.look().items():
        birth = ledger.births.by_inode[inode]
        if _is_alive(birth.moment.owner, ledger):
            sketch = sketch_descriptor(fds[0], inode)
            if sketch and sketch.state == "LISTEN":
                yield (sketch.protocol, sketch.local), birth.moment.owner


def _listener_of(suspect: Suspect, listeners: dict[tuple[str, str], Owner]) -> Owner | None:
    protocol, local = suspect.sketch.protocol, suspect.sketch.local
    if not local or suspect.sketch.state == "LISTEN":
        return None
    port = local.rpartition(":")[2]
    wildcards = (f"0.0.0.0:{port}", f"[::]:{port}") if protocol == "TCP" else ()
    return next((owner for name in (local, *wildcards) if (owner := listeners.get((protocol, name)))), None)


def _without_reached(suspects: list[Suspect], ledger: Ledger) -> list[Suspect]:
    """Gives sockets to the fixture from whose value they can be reached."""
    births = {suspect.birth.inode: suspect.birth for suspect in suspects if suspect.child is None}
    reached: set[int] = set()
    for owner in ledger.owners if births else ():
        found = births.keys() & set(_inodes_from(owner.roots)) - reached
        reached |= found
        for inode in found:
            births[inode].moment = Moment(owner)
    return [suspect for suspect in suspects if suspect.birth.inode not in reached]


def _inodes_from(roots: list[Any]) -> Iterator[int]:
    """Finds the sockets that can be reached from these objects, and not by way of a module, a class or a loop."""
    seen = {id(roots)}
    level: list[Any] = roots
    while level and len(seen) < MAX_OBJECTS:
        upper = []
        for thing in level:
            if id(thing) not in seen and not _leads_everywhere(thing):
                seen.add(id(thing))
                yield read_inode(_descriptor(thing))
                upper += _referents(thing)
        level = upper


def _leads_everywhere(thing: Any) -> bool:
    kind = type(thing)
    if kind is ModuleType or issubclass(kind, type):
        return True
    return module_of(thing).startswith(STRANGE) or _is_event_loop(thing)


def _referents(thing: Any) -> list[Any]:
    kind = type(thing)
    if kind is FunctionType:  # not its globals
        return [*(thing.__closure__ or ()), *(thing.__defaults__ or ())]
    if kind is dict and "__builtins__" in thing and "__name__" in thing:
        return []  # those of a module
    return gc.get_referents(thing) if gc.is_tracked(thing) or kind is CellType else []


_filenos: dict[type, bool] = {}


def _descriptor(thing: Any) -> int:
    """Asks objects made in C for their descriptor: sockets, files, uvloop's transports; -1 for all others."""
    kind = type(thing)
    try:
        if kind.__module__ == "uvloop.loop" and hasattr(kind, "get_extra_info"):
            return int(thing.get_extra_info("socket").fileno())
        if kind not in _filenos:
            _filenos[kind] = type(getattr(kind, "fileno", None)) is MethodDescriptorType
        return int(thing.fileno()) if _filenos[kind] else -1
    except Exception:  # noqa: BLE001 - closed, or not yet open
        return -1


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


def _without_closing(suspects: list[Suspect]) -> list[Suspect]:
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
    if not is_closing and suspect.sketch.state not in GONE:
        return None
    suspect.birth.has_waited = not is_closing
    return _Paused(loop, is_told_to_close=is_closing)


def _loop_of(transport: Any) -> Any:
    """Finds the loop of a transport. Those of uvloop do not tell, so any loop of uvloop that is open is taken."""
    loop = getattr(transport, "_loop", None)
    if loop is None:
        kinds = (
            kind for kind in gc.get_objects() if type(kind).__module__ == "uvloop" and hasattr(kind, "run_forever")
        )
        loop = next((found for found in kinds if not found.is_closed()), None)
    return loop


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
    yield from (thing for thing in (*referrers, *owners) if _is_transport(thing, "asyncio.selector_events"))
    if "uvloop" in sys.modules:
        yield from (thing for thing in gc.get_objects() if _is_transport(thing, "uvloop.loop"))


def _is_transport(thing: Any, module: str) -> bool:
    kind = type(thing)
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
    return type(referrer).__name__ == "WakeupSocketpair" or _is_event_loop(referrer)


def _is_event_loop(thing: Any) -> bool:
    return module_of(thing) in LOOPS and hasattr(type(thing), "run_forever")
