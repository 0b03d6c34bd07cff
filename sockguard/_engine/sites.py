"""Where in the program was a connection opened? Call stacks, kept small and shown on demand.

`capture` runs at every accept() and connect(), so it is written for speed, and three of its
tricks need a word. (Compared with others in `benchmarks/bench_sites.py`.)

*A frame is one integer.* `id(code) + f_lasti` is the address of an instruction inside the
code object, or next to it, so two different frames never have the same one as long as their
code objects live. A tuple of such integers is hashed in no time; the hash of a code object
walks all its bytes and constants.

*Every distinct stack is kept once.* Ten thousand connections of one accept loop share one
`Site`. It keeps its code objects alive, so the addresses in its key stay theirs. It keeps no
frames: those would keep the locals, and so the very sockets whose leaks we look for.

*A stack is read no deeper than needed.* Eight frames, written out without a loop, name the
caller most of the time. Only if they are all of libraries (a connect() below requests and
urllib3) or of the event loop (an accept() of asyncio) are further ones read.

Line numbers, file names and the choice of what is worth showing wait until somebody asks.
"""

import contextlib
import os
import sys
import weakref
from collections.abc import Iterable, Iterator
from types import CodeType, FrameType
from typing import NamedTuple

from sockguard._kernel.natives import system

__all__ = [
    "Frame", "Site", "capture", "capture_at", "is_application", "is_own", "line_of", "main_line", "place", "table_size",
]  # fmt: skip

MAX_SITES = 4096
"""Distinct stacks that are remembered, about 0.5 KiB each. A program has some dozens; one
that compiles code for each connection must not grow for it."""

STEP = 8
"""Frames that are read at once."""
MAX_FRAMES = 32
"""Frames that are read at most: requests, urllib3 and a web framework below them are 25."""
ENOUGH = 2
"""Frames of the application after which no further ones are read."""
MAX_SHOWN = 8

OWN = frozenset({"sockguard", "wrapt"})
MACHINERY = frozenset(
    {
        *OWN,
        *("socket", "ssl", "selectors", "socketserver"),  # the standard library's networking
        *("http", "urllib", "ftplib", "smtplib", "poplib", "imaplib", "xmlrpc", "wsgiref"),
        *("asyncio", "concurrent", "threading"),  # event loops, threads, greenlets
        *("anyio", "trio", "gevent", "greenlet", "eventlet", "uvloop"),
        *("contextlib", "contextvars", "functools", "importlib"),  # what stands between two calls
        *("runpy", "pytest", "_pytest", "pluggy", "pytest_asyncio", "unittest"),  # what starts programs and tests
    }
)
"""Top-level modules whose frames are not shown: they say how a connection was opened, never who wanted it.

Other libraries are shown (redis, urllib3, uvicorn): they are who asked, or on the way to who did.
"""
BOTTOMS = ("asyncio.events", "threading", "trio._core", "runpy", "_pytest", "sockguard.cli")
"""Modules below which the stack tells who started the program, not who opened the connection."""

_STDLIB = os.path.dirname(os.__file__) + os.sep
_LIBRARIES = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")


class Frame(NamedTuple):
    """What is kept of a frame."""

    code: CodeType
    lasti: int
    module: str

    @classmethod
    def of(cls, frame: FrameType) -> "Frame":
        """Takes down a frame."""
        module = frame.f_globals.get("__name__")
        return cls(frame.f_code, frame.f_lasti, module if type(module) is str else "")


class Site:
    """One call stack that opened connections, innermost frame first."""

    __slots__ = ("_frames", "_note")

    def __init__(self, frames: tuple[Frame, ...], note: str = "") -> None:
        self._frames = frames
        self._note = note

    def __repr__(self) -> str:
        return f"<Site {' < '.join(self.frames())}>"

    def frames(self) -> tuple[str, ...]:
        """Describes the calls that say who opened it, innermost first: "app.py:42 in serve"."""
        if self._note:
            return (self._note,)
        return tuple(place(frame.code, line_of(frame)) for frame in self._shown())

    @property
    def module_qualname(self) -> str:
        """The innermost function worth showing, as `module.Class.function`; "" if none is known."""
        return next((f"{frame.module}.{frame.code.co_qualname}" for frame in self._shown()), "")

    def _shown(self) -> list[Frame]:
        shown: list[Frame] = []
        for frame in self._frames:
            if shown and _is_below(frame.module, BOTTOMS):
                break
            if _package(frame.module) not in MACHINERY and not frame.code.co_filename.startswith("<frozen "):
                shown.append(frame)
        return shown[:MAX_SHOWN] or self._innermost()

    def _innermost(self) -> list[Frame]:
        """The innermost frame that is not our own, where there is nothing better."""
        others = [frame for frame in self._frames if _package(frame.module) not in OWN]
        return (others or list(self._frames))[:1]


_FULL = Site((), f"(not recorded: connections are opened in more than {MAX_SITES} places)")
_DEEPER = Site(())
"""Stands in the table for stacks whose innermost frames do not say enough.

Nothing keeps the code objects of such a key alive but the sites of the deeper stacks. Should
there be none, then the key may come to stand for other code, of which too much is then read.
"""
_table: dict[tuple[int, ...], Site] = {}


def capture(depth: int = 1) -> Site:
    """Finds the site of the running call; called for every connection.

    Args:
        depth: Whose call: 1 is the caller of this function, 2 is its caller.
    """
    a = sys._getframe(depth)  # noqa: SLF001 - the one door to the stack that is fast
    if (  # a loop over eight frames takes half as long again
        (b := a.f_back) is None
        or (c := b.f_back) is None
        or (d := c.f_back) is None
        or (e := d.f_back) is None
        or (f := e.f_back) is None
        or (g := f.f_back) is None
        or (h := g.f_back) is None
    ):
        return _read(a, (), a)
    key = (
        id(a.f_code) + a.f_lasti,
        id(b.f_code) + b.f_lasti,
        id(c.f_code) + c.f_lasti,
        id(d.f_code) + d.f_lasti,
        id(e.f_code) + e.f_lasti,
        id(f.f_code) + f.f_lasti,
        id(g.f_code) + g.f_lasti,
        id(h.f_code) + h.f_lasti,
    )
    site = _table.get(key)
    if site is None:
        site = _learn(a, key)
    return _read(a, key, h.f_back) if site is _DEEPER else site


def capture_at(owner: object, depth: int = 1) -> Site:
    """Finds the site of the running call as `capture` does, for an owner that makes the same call again and again.

    If it is the same line that calls for the same owner, it is taken to have been called
    from the same place: a line of a library's too, as that of `SSLSocket.accept`. That costs
    a quarter of a look at eight frames. Where the stack is not that deep (a thread that C
    code began), the site is its outermost call.
    """
    try:
        frame = sys._getframe(depth)  # noqa: SLF001
    except ValueError:
        return capture(depth)
    line = id(frame.f_code) + frame.f_lasti
    known = _by_owner.get(id(owner))
    if known is not None and known[1] == line and known[0]() is owner:
        return known[2]
    if len(_by_owner) >= MAX_SITES:
        _by_owner.clear()
    site = capture(depth + 1)
    _by_owner[id(owner)] = (weakref.ref(owner), line, site)
    return site


_by_owner: "dict[int, tuple[weakref.ref[object], int, Site]]" = {}


def table_size() -> int:
    """Tells how many stacks are remembered."""
    return len(_table)


def place(code: CodeType, line: int | None) -> str:
    """Describes a line of code: "app.py:42 in serve", with a path as short as it can be."""
    return f"{_shorten(code.co_filename)}:{line or code.co_firstlineno} in {code.co_name}"


def main_line(frames: Iterable[FrameType]) -> str | None:
    """Describes where the application is in a stack that runs or waits: its innermost line, else a library's.

    Args:
        frames: Innermost first.
    """
    others = [frame for frame in frames if not is_own(frame)]
    best = next((frame for frame in others if is_application(Frame.of(frame))), others[0] if others else None)
    return place(best.f_code, best.f_lineno) if best is not None else None


def is_own(frame: FrameType) -> bool:
    """Tells whether this is code of sockguard's."""
    return _package(Frame.of(frame).module) in OWN


def _read(first: FrameType, key: tuple[int, ...], frame: FrameType | None) -> Site:
    """Reads on from `frame`, until it is known who opened it.

    Args:
        first: The innermost frame.
        key: What was read so far, from `first` to before `frame`.
    """
    while True:
        addresses: list[int] = []
        while frame is not None and len(addresses) < STEP:
            addresses.append(id(frame.f_code) + frame.f_lasti)
            frame = frame.f_back
        key += tuple(addresses)
        site = _table.get(key) or _learn(first, key)
        if site is not _DEEPER:
            return site


def _learn(first: FrameType, key: tuple[int, ...]) -> Site:
    """Puts a stack that was never seen into the table."""
    if len(_table) >= MAX_SITES:
        return _FULL
    frames = []
    frame: FrameType | None = first
    for _ in key:
        if frame is None:  # pragma: no cover - the key has as many
            break
        frames.append(Frame.of(frame))
        frame = frame.f_back
    is_all = frame is None or len(key) >= MAX_FRAMES or _is_enough(frames)
    return _table.setdefault(key, Site(tuple(frames)) if is_all else _DEEPER)


def _is_enough(frames: list[Frame]) -> bool:
    """Tells whether these frames name who opened the connection."""
    ours = [number for number, frame in enumerate(frames) if is_application(frame)]
    return len(ours) >= ENOUGH or any(_is_below(frame.module, BOTTOMS) for n in ours[:1] for frame in frames[n:])


def is_application(frame: Frame) -> bool:
    path = frame.code.co_filename
    is_library = path.startswith(("<frozen ", _STDLIB)) or any(part in path for part in _LIBRARIES)
    return not is_library and _package(frame.module) not in MACHINERY


def _package(module: str) -> str:
    return module.partition(".")[0]


def _is_below(module: str, roots: tuple[str, ...]) -> bool:
    return any(module == root or module.startswith(f"{root}.") for root in roots)


def line_of(frame: Frame) -> int | None:
    return next((line for start, end, line in frame.code.co_lines() if start <= frame.lasti < end), None)


def _shorten(path: str) -> str:
    """Writes a path relative to the working directory or the import path, whichever is nearest."""
    if not os.path.isabs(path):
        return path
    parents = [parent for parent in _parents() if path.startswith(parent)]
    return path[len(max(parents, key=len, default="")) :]


def _parents() -> Iterator[str]:
    """Yields directories that a reader knows anyway; the root is none of them."""
    candidates = list(sys.path)
    with contextlib.suppress(FileNotFoundError):  # it was removed
        candidates.append(system.getcwd())
    for candidate in map(str, candidates):
        if len(candidate) > 1 and os.path.isabs(candidate):
            yield candidate.rstrip(os.sep) + os.sep
