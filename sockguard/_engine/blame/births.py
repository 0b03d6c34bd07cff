"""Who opened which socket, in whose time? Each `socket.socket` is taken down when it is made.

Used where the innocent must not pay for the guilty: in tests. Every socket is stamped with
the owner of the moment (a test, a fixture), and keeps that stamp until its inode is gone.
The inode is what a stamp hangs on: no other socket of this process has it, whereas numbers
are used again and objects come and go (`detach()`, `dup()`, TLS).

A socket object that is thrown away while it is open is taken down too, at that very moment:
afterwards its descriptor is closed, and the kernel has nothing to show for it.
"""

import sys
import threading
import weakref
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from contextvars import ContextVar
from types import CodeType, FrameType
from typing import Any, NamedTuple

from sockguard._core.leftovers import Sketch
from sockguard._kernel.natives import monotonic
from sockguard._kernel.own_sockets import NO_INODE, fd_of, read_inode, sketch_descriptor

__all__ = ["WITHIN", "Birth", "Births", "Call", "Death", "Moment"]

MAX_FRAMES = 32

LOOPS = frozenset(
    {
        *("asyncio.selector_events", "asyncio.proactor_events", "asyncio.unix_events", "asyncio.base_events"),
        *("trio._core._wakeup_socketpair", "anyio._core._asyncio_selector_thread", "tornado.platform.asyncio"),
    }
)
"""Modules that make a pair of sockets in order to wake an event loop up."""
WAKERS = frozenset({"_make_self_pipe", "__init__"})
"""Their functions that do so. (Not `_start` of asyncio's subprocesses: that pair is a program's.)"""
KEPT_FOR_EVER = frozenset(
    {("multiprocessing.forkserver", "ensure_running"), ("multiprocessing.resource_sharer", "_start")}
)
"""Functions of the standard library, with their modules, that open a listener once, for as long as the process lives:
the first leaves it to the fork server, by the second one sockets are shared. (Its resource tracker has a pipe.)"""
DEEPEST = 4
"""Calls from such a function down to the socket: it may ask a `Listener` for it."""

POOLS = frozenset(
    {
        *("concurrent.futures.thread", "multiprocessing.pool", "anyio._backends._asyncio"),
        *("trio._core._thread_cache", "gevent.threadpool"),
    }
)
"""Modules of threads that are lent: who started one says nothing about who makes use of it."""
JOBS = "concurrent.futures.thread"
"""The one that has an object for each job, by which it is known who gave it."""


class Call(NamedTuple):
    """One call on a stack: what is kept of a frame, and enough for `_engine/sites.py` to show it."""

    code: CodeType
    lasti: int
    module: str


class Moment(NamedTuple):
    """What runs just now: who is charged with sockets that are opened, and by which of its fixtures."""

    owner: Any
    fixture: str = ""


WITHIN: ContextVar[Sequence[Moment]] = ContextVar("sockguard_within", default=())
"""What runs in this thread or task in particular; empty if that is what runs just now."""


class Birth:
    """The stamp of one socket."""

    __slots__ = (
        *("at", "calls", "has_waited", "inode", "is_internal", "is_thrown_away", "is_told"),
        *("moment", "opened_in", "refs", "waits"),
    )

    def __init__(self, inode: int, moment: Moment, calls: tuple[Call, ...] = ()) -> None:
        self.inode = inode
        self.moment = moment
        self.opened_in = moment.owner
        """Who was the owner when it was opened; `moment` may be changed to whom it belongs."""
        self.calls = calls
        """Innermost first; empty if it was opened in C."""
        self.at = monotonic()
        self.refs: tuple[weakref.ref[Any], ...] = ()
        """The socket objects by which it is known."""
        self.is_internal = False
        """It belongs to an event loop, to the process as such, or to sockguard itself."""
        self.is_told = False
        """It was reported, or found to be wanted."""
        self.is_thrown_away = False
        """It was thrown away after that: between the look that found it and the judgement that tells why."""
        self.waits: Any = None
        """The pause of an event loop that must be over before this one is judged."""
        self.has_waited = False

    @property
    def may_be_accepted(self) -> bool:
        """Tells whether it came through a listener, as far as the stack says; of one opened in C it says nothing."""
        return not self.calls or self.calls[0].code.co_name == "accept"

    def refer_to(self, sock: Any) -> None:
        """Takes down an object by which the socket is known."""
        self.refs = (*[ref for ref in self.refs if ref() is not None], weakref.ref(sock))

    def objects(self) -> list[Any]:
        """Lists the socket objects that still have it open."""
        alive = (ref() for ref in self.refs)
        return [sock for sock in alive if sock is not None and read_inode(fd_of(sock)) == self.inode]


class Death(NamedTuple):
    """A socket that nobody closed when it was thrown away."""

    birth: Birth
    sketch: Sketch | None


class Births:
    """The stamps of the sockets of this process, by inode. One at a time is in use; see `sockguard.testing`."""

    def __init__(self, owner: object) -> None:
        self.moment = Moment(owner)
        self.background: Moment | None = None
        """What counts for threads other than the main one, where that differs."""
        self.block: Moment | None = None
        """A block of code that is charged by itself, if one runs: it comes before both."""
        self._jobs: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()
        self.by_inode: dict[int, Birth] = {}
        self.elsewhere: dict[int, Birth] = {}
        """Those that belong to somebody else than who ran when they were opened."""
        self.deaths: list[Death] = []
        self._stacks: dict[tuple[int, ...], tuple[Call, ...]] = {}
        self._threads: weakref.WeakKeyDictionary[threading.Thread, Any] = weakref.WeakKeyDictionary()
        self._main = threading.main_thread()

    def enter(self, moment: Moment) -> Moment:
        """Changes what runs just now, and returns what ran before. Threads that are new belong to the latter."""
        before = self.moment
        for thread in list(_threads().values()):
            if thread is not self._main and thread not in self._threads:
                self._threads[thread] = before.owner
        self.moment = moment
        return before

    def born(self, sock: Any, depth: int = 2) -> None:
        """Takes down a socket object that was just made; called for every one.

        Args:
            sock: it may be a further object for a socket that is known.
            depth: whose call made it: 2 is the caller of our caller.
        """
        inode = read_inode(fd_of(sock))
        if inode == NO_INODE:
            return
        birth = self.by_inode.get(inode)
        if birth is None or not (birth.calls or birth.refs):  # or it was found before its thread could tell
            frame = sys._getframe(depth)  # noqa: SLF001 - the one door to the stack that is fast
            birth = self.by_inode[inode] = self._birth(inode, frame)
        birth.refer_to(sock)

    def found(self, inode: int, moment: Moment) -> Birth:
        """Takes down a socket that was opened in C."""
        birth = self.by_inode[inode] = Birth(inode, moment)
        return birth

    def opened(self, fd: int, calls: tuple[Call, ...]) -> None:
        """Takes down who asked for a socket that was opened in C."""
        inode = read_inode(fd)
        if inode != NO_INODE:
            birth = self.by_inode.get(inode) or self.found(inode, next(iter(WITHIN.get()), self.moment))
            birth.calls = birth.calls or calls

    def calls(self, depth: int = 2) -> tuple[Call, ...]:
        """Reads the stack of the running call; `depth` as in `born`."""
        return self._calls(sys._getframe(depth))  # noqa: SLF001

    def thrown_away(self, fd: int, sock: Any = None) -> None:
        """Takes down that a descriptor is open whose owner ends; called by a finaliser, at any moment.

        Args:
            fd: a number of this process; below 0 it is closed, and all is well.
            sock: the object that ends. As long as there is another one, the socket is not lost.
        """
        inode = read_inode(fd)
        if inode == NO_INODE:
            return
        birth = self.by_inode.get(inode) or self.found(inode, self.moment)
        others = sock is not None and [other for other in birth.objects() if other is not sock]
        if others:
            return
        if birth.is_told:
            birth.is_thrown_away = True
        else:
            birth.is_told = True
            self.deaths.append(Death(birth, sketch_descriptor(fd, inode)))

    def given(self, job: Any) -> None:
        """Takes down who gives a job to a pool of threads."""
        is_main = threading.get_ident() == self._main.ident
        self._jobs[job] = (self.moment if is_main else self.block or self.background or self.moment).owner

    def _giver(self, frame: FrameType) -> Any:
        """Finds who gave the job that runs; None if nobody saw."""
        step: FrameType | None = frame
        while step is not None:
            if step.f_code.co_name == "run" and step.f_globals.get("__name__") == JOBS:
                names = step.f_locals
                job = names["self"]
                if isinstance(names, dict):
                    del names["self"]
                return None if job is None else self._jobs.get(job)
            step = step.f_back
        return None

    def forget(self, living: AbstractSet[int]) -> None:
        """Throws out the stamps of sockets that are no more."""
        for inode in [inode for inode in self.by_inode.keys() - living if not self.by_inode[inode].objects()]:
            self.by_inode.pop(inode, None)
            self.elsewhere.pop(inode, None)
        self._stacks.clear()

    def _calls(self, frame: FrameType) -> tuple[Call, ...]:
        """Reads the stack; the same stack is kept once."""
        key: list[int] = []
        calls: list[Call] = []
        step: FrameType | None = frame
        while step is not None and len(calls) < MAX_FRAMES:
            code, module = step.f_code, step.f_globals.get("__name__", "")
            calls.append(Call(code, step.f_lasti, module))
            key.append(id(code) + step.f_lasti)
            if module.startswith("_pytest."):
                break  # the test began here
            step = step.f_back
        return self._stacks.setdefault(tuple(key), tuple(calls))

    def _birth(self, inode: int, frame: FrameType) -> Birth:
        """Makes a stamp. A thread's socket is its starter's; in a pool, that of who gave the job, or runs."""
        calls = self._calls(frame)
        thread = _threads().get(threading.get_ident())
        within = tuple(WITHIN.get())
        if within or thread is None or thread is self._main:
            birth = Birth(inode, within[0] if within else self.moment, calls)
        else:
            birth = Birth(inode, self.block or self.background or self.moment, calls)
            is_lent = any(call.module in POOLS for call in calls)
            starter = self._giver(frame) if is_lent else self._threads.get(thread)
            if starter not in (None, birth.opened_in):
                birth.moment = Moment(starter)
                self.elsewhere[inode] = birth
        birth.is_internal = is_internal(calls)
        return birth


def _threads() -> "dict[int, threading.Thread]":
    """Gives the threads by ident; without threading.enumerate(), whose lock gevent may have made its own."""
    return getattr(threading, "_active", {})


def is_internal(calls: tuple[Call, ...]) -> bool:
    """Tells by the stack whether a socket belongs to an event loop, to the process as such, or to sockguard itself."""
    if not calls:
        return False
    if calls[0].module.startswith("multiprocessing."):
        return any((call.module, call.code.co_name) in KEPT_FOR_EVER for call in calls[:DEEPEST])
    if calls[0].module.startswith("sockguard."):
        return True
    caller = calls[1] if calls[0].code.co_name == "socketpair" and len(calls) > 1 else calls[0]
    return caller.module in LOOPS and caller.code.co_name in WAKERS
