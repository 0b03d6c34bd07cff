"""Which sockets can be reached from the value of a fixture, and not by way of a module, a class or an event loop?

Downwards, from the value, all are found at once. But a value may lead to millions of objects,
and then the search ends before it has seen all. For what was not found by then it is asked
upwards: who refers to the socket, who to him, and so on; there are few of those. Each step up is a look at all
objects of the process, some 10 ms for 200,000 of them.
"""

import gc
from collections import deque
from collections.abc import Collection, Iterable, Iterator
from types import CellType, FunctionType, MethodDescriptorType, ModuleType
from typing import Any

from sockguard._engine.attributes import module_of
from sockguard._engine.blame.births import Birth
from sockguard._engine.blame.loops import is_event_loop
from sockguard._kernel.natives import monotonic
from sockguard._kernel.own_sockets import read_inode

__all__ = ["leads_everywhere", "reached_from"]

MAX_OBJECTS = 200_000
"""Objects that are looked at from a value downwards: some 50 ms."""
MAX_WIDTH = 64
"""Objects whose referrers are asked for at once; the cost of a look grows with them."""
MAX_SECONDS = 1.0
"""For all ways upwards that are asked for at once."""
STRANGE = ("_pytest", "pytest_asyncio", "pluggy")
"""Packages whose objects lead everywhere."""


def reached_from(roots: list[Any], births: Collection[Birth]) -> list[Birth]:
    """Finds those of these sockets that can be reached from any of these objects.

    Where nobody can tell (a value too large, and a socket opened in C), it is one of them:
    better a fixture is asked for it at its own end than a test that has done nothing.
    """
    if not births or not roots:
        return []
    level = [thing for root in roots for thing in _contents(root)]
    wanted = set(map(id, level))
    search = _Downwards(level)
    inodes = set(search.inodes())
    until = monotonic() + MAX_SECONDS
    return [b for b in births if b.inode in inodes or (search.gave_up and _leads_up_to(wanted, b, until))]


def _contents(root: Any) -> Iterable[Any]:
    """Gives what is in a module or a class, if that is the value itself; elsewhere they lead everywhere."""
    kind = type(root)  # not isinstance(), which a proxy of the application answers
    if issubclass(kind, ModuleType):
        return list(ModuleType.__getattribute__(root, "__dict__").values())
    return list(type.__getattribute__(root, "__dict__").values()) if issubclass(kind, type) else [root]


class _Downwards:
    """A search from these objects for what they refer to."""

    def __init__(self, roots: list[Any]) -> None:
        self._roots = roots
        self.gave_up = False
        """There was more to look at than may be."""

    def inodes(self) -> Iterator[int]:
        """Yields the inodes of the sockets, and -1 for much else."""
        seen = {id(self._roots)}
        queue = deque(self._roots)
        while queue:
            thing = queue.popleft()
            if id(thing) in seen or leads_everywhere(thing):
                continue
            if len(seen) > MAX_OBJECTS:
                self.gave_up = True
                return
            seen.add(id(thing))
            yield read_inode(_descriptor(thing))
            queue += _referents(thing)


def _leads_up_to(wanted: set[int], birth: Birth, until: float) -> bool:
    """Tells whether a socket hangs on any of the wanted, given by their ids; also where that cannot be found out."""
    level = birth.objects()
    seen = set(map(id, level))
    is_known = bool(level)
    while level and is_known:
        if not wanted.isdisjoint(map(id, level)):
            return True
        level = [t for t in _referrers(level) if not (id(t) in seen or leads_everywhere(t) or _is_of_module(t))]
        seen.update(map(id, level))
        is_known = not level or (len(level) <= MAX_WIDTH and monotonic() < until)
    return not is_known


def _referrers(things: list[Any]) -> list[Any]:
    """Lists what refers to these, but for what we do ourselves in order to ask: from 3.13 on the arguments, too."""
    asked = tuple(things)
    return [one for one in gc.get_referrers(*asked) if one is not asked and one is not things]


def leads_everywhere(thing: Any) -> bool:
    """Tells of what is no way from one object to another: from there, all can be reached."""
    kind = type(thing)
    if kind is ModuleType or issubclass(kind, type):
        return True
    return module_of(thing).startswith(STRANGE) or is_event_loop(thing)


def _is_of_module(thing: Any) -> bool:
    """Tells whether these are the globals of a module."""
    return type(thing) is dict and "__builtins__" in thing and "__name__" in thing


def _referents(thing: Any) -> list[Any]:
    kind = type(thing)
    if kind is FunctionType:  # not its globals
        return [*(thing.__closure__ or ()), *(thing.__defaults__ or ())]
    if _is_of_module(thing):
        return []
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
