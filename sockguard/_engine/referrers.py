"""Who refers to an object, and under which name? A bounded walk over gc.get_referrers.

Made for a few sick connections, on demand: one look at all objects of the process takes
some 10 ms for each 200,000 of them, and the interpreter lock with it.

What must not happen: an object kept alive by being looked at, or code of the application
run by it. So nothing is compared but by identity, nothing is printed but names of types,
functions and attributes, and attributes are read past any property. Local variables are
the one trap. The frame of a running function is not seen by the garbage collector, and up to
Python 3.12 reading `f_locals` leaves a copy of all locals with the frame, which would
hold them after the function has let go. That copy is emptied at once - unless a debugger, or
the function itself through locals(), may be using it: then the frame is passed over.
"""

import gc
import sys
from collections.abc import Iterable, Iterator
from types import AsyncGeneratorType, CoroutineType, FrameType, FunctionType, GeneratorType
from typing import Any, NamedTuple

from sockguard._engine.attributes import attributes, instance_dict, module_of, type_name
from sockguard._engine.frames import frames_of_threads
from sockguard._engine.sites import MACHINERY, OWN, is_own, place
from sockguard._kernel.natives import monotonic

__all__ = ["held_by", "stacks", "thread_with_local"]

MAX_LEVELS = 6
"""transport < writer < session < list < dict < module."""
MAX_SECONDS = 0.1
"""After which no further level is begun; a look that has begun cannot be cut short."""
MAX_TARGETS = 24
"""Objects whose referrers are looked for at one level; the cost of a look grows with them."""
MAX_HOLDERS = 3
MAX_ITEMS = 100_000
"""Entries of a dictionary among which a key is looked for."""
MAX_FRAMES = 512
"""Frames of running threads, of all together."""

LOOPS = frozenset({"asyncio.events", "asyncio.base_events", "asyncio.unix_events", "selectors", "threading"})
"""Modules of what every open connection hangs on anyway: loops, handles, keys of selectors, arguments of threads."""
PLUMBING = frozenset({"asyncio", "socket", "_socket", "ssl", "_ssl", "_io", "uvloop"})
"""Packages of what belongs to one connection (stream, transport, file): who holds that, holds the connection."""
CONTAINERS = frozenset({"dict", "list", "set", "frozenset", "tuple", "deque", "OrderedDict", "defaultdict"})

WRAPPERS = frozenset({"method", "partial", "cell", "builtin_function_or_method", "Context", "Task", "Future"})
"""Types of what passes a reference on."""
WITH_FRAME = frozenset({CoroutineType, GeneratorType, AsyncGeneratorType, FrameType})

CO_OPTIMIZED = 1
"""Of code whose locals are no dictionary (Include/cpython/code.h): functions, not modules and classes."""
SEES_LOCALS = frozenset({"locals", "vars", "eval", "exec", "dir", "breakpoint"})
LOCALS_ARE_LIVE = sys.version_info >= (3, 13)
"""PEP 667: `f_locals` of a function is a view, and leaves nothing behind."""


class _Link(NamedTuple):
    """One object on the way from the connection up to whoever holds it."""

    object: Any
    below: "_Link | None" = None
    """What it refers to."""
    key: str = ""
    """Under which name, if it is a dictionary."""
    text: str = ""
    """The same in words; "" for what need not be told."""


def held_by(thing: object, seconds: float | None = None) -> tuple[str, ...]:
    """Tells who keeps an object alive: "set 'subscribers' of module app", "local 'conn' of handle (app.py:12)".

    Looks no further than to the first name: a global, a class, what runs or waits, a
    function. Empty if nothing of the application refers to it, or none was found in time.

    Args:
        seconds: How long it may take; None for `MAX_SECONDS`.
    """
    until = monotonic() + (MAX_SECONDS if seconds is None else seconds)
    level = [_Link(thing)]
    seen = {id(thing)}
    found: dict[str, str] = {}
    for _ in range(MAX_LEVELS):
        _run_through(level, found)
        level = _climb(level, seen, found)
        if not level or len(found) >= MAX_HOLDERS or monotonic() > until:
            break
    return tuple(found.values())[:MAX_HOLDERS]


def thread_with_local(thing: object) -> int | None:
    """Finds a thread in which a function of the application has an object in a local variable."""
    return next((thread for thread, *_ in _running_locals({id(thing)})), None)


def _run_through(level: list[_Link], found: dict[str, str]) -> None:
    """Adds the functions that run and have one of these objects in a local variable."""
    links = {id(link.object): link for link in level}
    for _, name, frame, ident in _running_locals(links.keys()):
        line = _line(frame)
        found.setdefault(line, _tell(f"local '{name}' of {line}", links[ident]))


def _running_locals(idents: Iterable[int]) -> Iterator[tuple[int, str, FrameType, int]]:
    wanted = set(idents)
    n_frames = 0
    for thread, top in stacks().items():
        frame: FrameType | None = top
        while frame is not None and n_frames < MAX_FRAMES:
            n_frames += 1
            for name, ident in _locals_among(frame, wanted):
                yield thread, name, frame, ident
            frame = frame.f_back


def stacks() -> dict[int, FrameType]:
    """Finds where each thread is: its innermost frame that is not our own.

    No variable here may be left with a frame of ours, as that frame would have the variable:
    a cycle, which keeps all callers and their locals until the garbage collector comes.
    """
    tops = {}
    frame: FrameType | None
    for thread, frame in (frames_of_threads() or {}).items():
        while frame is not None and is_own(frame):
            frame = frame.f_back  # noqa: PLW2901
        if frame is not None:
            tops[thread] = frame
    return tops


def _locals_among(frame: FrameType, wanted: set[int]) -> list[tuple[str, int]]:
    """Finds which wanted objects a function has in local variables; leaves no trace of having looked."""
    code = frame.f_code
    if not code.co_flags & CO_OPTIMIZED or frame.f_lasti < 0 or _is_machinery(frame):
        return []
    if not LOCALS_ARE_LIVE and (_is_traced(frame) or not SEES_LOCALS.isdisjoint(code.co_names)):
        return []
    values = frame.f_locals
    # Others are nobody's: `.0` of a comprehension, `@py_assert1` of pytest.
    found = [(name, id(value)) for name, value in values.items() if id(value) in wanted and name.isidentifier()]
    if not LOCALS_ARE_LIVE and sys.getrefcount(values) <= 3:  # noqa: PLR2004 - the frame, `values`, the argument
        values.clear()
    return found


def _is_traced(frame: FrameType) -> bool:
    """Tells whether a debugger may write locals back; what measures coverage in C does not (call_trampoline)."""
    return frame.f_trace is not None and _package(module_of(frame.f_trace)) != "coverage"


def _climb(level: list[_Link], seen: set[int], found: dict[str, str]) -> list[_Link]:
    """Goes from objects to those that refer to them; adds those that have a name to `found`."""
    targets = [link.object for link in level]
    seen |= {id(targets), id(level)}
    upper: list[_Link] = []
    for referrer in gc.get_referrers(*targets):
        if id(referrer) in seen or not _may_tell(referrer):
            continue
        seen.add(id(referrer))
        link = _link(referrer, _target_of(referrer, level))
        if _is_root(referrer):
            if link.text:  # once for each function, though it may have reader, writer and transport
                found.setdefault(link.text.partition(" of ")[2] or link.text, _tell(link.text, link.below))
        elif len(upper) < MAX_TARGETS:
            upper.append(link)
    return upper


def _may_tell(referrer: object) -> bool:
    """Leaves out what is ours, and what every connection hangs on."""
    module = module_of(referrer)
    return type(referrer) is not _Link and _package(module) not in OWN and module not in LOOPS


def _target_of(referrer: object, level: list[_Link]) -> _Link:
    """Finds to which of the objects it refers; to the first, if that cannot be told."""
    idents = {id(referent) for referent in gc.get_referents(referrer)}
    return next((link for link in level if id(link.object) in idents), level[0])


def _is_root(referrer: Any) -> bool:
    """Tells whether it has a name of its own, or runs: no need to ask who refers to that."""
    kind = type(referrer)
    if kind in WITH_FRAME:
        return not _is_machinery(_frame_of(referrer))
    if kind is FunctionType:
        return not _is_of_machinery(referrer.__globals__)
    return issubclass(kind, type) or _is_namespace(referrer)


def _is_namespace(referrer: object) -> bool:
    """Tells whether these are the global names of a module."""
    return type(referrer) is dict and "__builtins__" in referrer and "__name__" in referrer


def _link(referrer: Any, below: _Link) -> _Link:
    """Names the way in which an object refers to another."""
    kind = type(referrer)
    if kind is dict:
        key = _key_of(referrer, below.object)
        return _Link(referrer, below, key, _global_text(referrer, below, key) if _is_namespace(referrer) else "")
    if kind in WITH_FRAME:
        text = _frame_text(_frame_of(referrer), below)
    elif kind is FunctionType:
        text = f"closure of {place(referrer.__code__, None)}"
    elif issubclass(kind, type):
        text = f"{_kind(below.below or below, 'class attribute')} '{below.key}' of {type_name(referrer)}"
    else:
        text = _object_text(referrer, below)
    return _Link(referrer, below, text=text)


def _key_of(mapping: dict[Any, Any], value: object) -> str:
    if len(mapping) > MAX_ITEMS:
        return ""
    return next((key for key, found in list(mapping.items()) if found is value and type(key) is str), "")


def _global_text(namespace: dict[str, Any], below: _Link, key: str) -> str:
    module = namespace["__name__"]
    is_told = key and type(module) is str and not _is_of_machinery(namespace)
    return f"{_kind(below, 'global')} '{key}' of module {module}" if is_told else ""


def _frame_text(frame: FrameType | None, below: _Link) -> str:
    """Names a local variable of a function that waits; "" if it is plumbing, whose caller is who holds."""
    if frame is None or _is_machinery(frame):
        return ""
    names = _locals_among(frame, {id(below.object)})
    what = f"{_kind(below, 'local')} '{names[0][0]}'" if names else "a local"
    return f"{what} of {_line(frame)}"


def _object_text(referrer: object, below: _Link) -> str:
    """Names an attribute; "" for plumbing and containers, which are told of by whoever holds them."""
    name = type_name(type(referrer))
    if name in CONTAINERS or name in WRAPPERS or _package(module_of(referrer)) in PLUMBING:
        return ""
    if below.below is not None and below.object is instance_dict(referrer):
        below, key = below.below, below.key
    else:
        key = next((key for key, value in attributes(referrer) if value is below.object), "")
    return f"{_kind(below, 'attribute')} '{key}' of {name}" if key else f"object {name}"


def _kind(link: _Link, otherwise: str) -> str:
    """Says what a name stands for: a container by its type."""
    name = type_name(type(link.object))
    return name if name in CONTAINERS else otherwise


def _tell(name: str, link: _Link | None) -> str:
    """Joins a chain into a phrase, from the connection to the name."""
    words = [name]
    while link is not None:
        words += [link.text] if link.text else []
        link = link.below
    return ", in ".join(reversed(words))


def _frame_of(thing: Any) -> FrameType | None:
    """Gives the frame of a coroutine, a generator or a traceback; None if it has ended."""
    if type(thing) is CoroutineType:
        return thing.cr_frame
    if type(thing) is GeneratorType:
        return thing.gi_frame
    return thing.ag_frame if type(thing) is AsyncGeneratorType else thing


def _is_machinery(frame: FrameType | None) -> bool:
    return frame is not None and _is_of_machinery(frame.f_globals)


def _is_of_machinery(namespace: dict[str, Any]) -> bool:
    module = namespace.get("__name__")
    return type(module) is str and _package(module) in MACHINERY


def _line(frame: FrameType) -> str:
    where, _, function = place(frame.f_code, frame.f_lineno).rpartition(" in ")
    return f"{function} ({where})"


def _package(module: str) -> str:
    return module.partition(".")[0]
