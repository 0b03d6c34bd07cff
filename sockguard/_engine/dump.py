"""What is going on in there? On a signal, a dump of the threads, the connections, the leaks and the last events.

`register` follows `faulthandler.register`, with one difference: that one writes from C, in
the very moment of the signal, and this one from Python, as soon as the main thread runs some.
A main thread that is stuck in C code for good takes the other.

A signal finds the main thread anywhere: within a lock of ours, of `threading`, or of the very
file that the dump goes to. So the handler takes no lock. It notes where every thread
stands, and a bare thread does the rest; if that needs what the main thread holds, it waits
until the handler has returned. `threading.Thread` would not do: to start one takes a lock.
"""

import contextlib
import operator
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import CodeType, FrameType
from typing import Any, Protocol

from sockguard._core.events import Event
from sockguard._engine.frames import frames_of_threads
from sockguard._engine.sites import place
from sockguard._kernel.natives import native
from sockguard.errors import UsageError

__all__ = ["event_lines", "register", "render_dump", "set_source", "unregister", "unregister_all"]

MAX_FRAMES = 30
"""Calls that are shown of each thread, innermost first: what waits, and which request that is for."""

MAX_WAIT = 2.0
"""Seconds that the handler waits for the dump to be written before it calls the one that was there before,
which may well end the process."""

FATAL = frozenset(
    getattr(signal, name) for name in ("SIGSEGV", "SIGFPE", "SIGABRT", "SIGBUS", "SIGILL") if hasattr(signal, name)
)

Stack = Sequence[tuple[CodeType, int]]


class _File(Protocol):
    def write(self, text: str, /) -> object: ...


def render_dump(title: str, sections: Mapping[str, Iterable[str]]) -> str:
    """Renders lines under headings, each with their number; `None.` where there are none."""
    parts = [title]
    for heading, lines in sections.items():
        listed = [f"  {line}" for line in lines]
        parts.append(f"{heading} ({len(listed)})\n" + ("\n".join(listed) or "  None."))
    return "\n\n".join(parts) + "\n"


def event_lines(recent: Iterable[tuple[float, Event]], now: float) -> list[str]:
    """Describes events, each with its instant, by how long ago they were."""
    return [f"{now - told_at:.1f} s ago, {event.level}: {event.name}: {event.message}" for told_at, event in recent]


_source: Callable[[], str] | None = None
_registered: dict[int, "_Handler"] = {}


def set_source(describe: Callable[[], str] | None) -> None:
    """Sets what describes the guard's part of a dump; it is called on a thread of its own, and may take locks."""
    global _source  # noqa: PLW0603 - as signal handlers are
    _source = describe


def register(signum: int, *, file: "_File | int | None" = None, chain: bool = False) -> None:
    """Has a signal write a dump, after the manner of `faulthandler.register`.

    Only the main thread can do it. Calling it again for the same signal changes `file` and `chain`.

    Args:
        signum: Such as `signal.SIGUSR1`.
        file: Where to; a file or a descriptor, which must stay open. None: whatever
            `sys.stderr` is by then.
        chain: Whether the handler that was there before is called too.

    Raises:
        UsageError: No such signal, it cannot be handled, or there is nowhere to write to.
        ValueError: This is not the main thread.
    """
    number = _checked(signum)
    if file is None and sys.stderr is None:
        raise UsageError("file=None makes no sense: there is no sys.stderr; give a file or a descriptor")
    if file is not None and not isinstance(file, int) and not callable(getattr(file, "write", None)):
        msg = f"file={file!r} makes no sense: give a file or a descriptor"
        raise UsageError(msg)
    present: Any = signal.getsignal(number)
    own = _registered.get(number)
    if own is not None and present is own:
        present = own.previous
    if present is None:
        msg = f"signum={number} has a handler that is not Python's, which could not be put back; choose another signal"
        raise UsageError(msg)
    handler = _Handler(file, present, chain=chain)
    signal.signal(number, handler)
    _registered[number] = handler


def unregister(signum: int) -> bool:
    """Undoes `register`: the handler that was there before is back. Tells whether there was anything to undo.

    If the program has set another handler since, that one stays.

    Raises:
        UsageError: No such signal.
        ValueError: This is not the main thread.
    """
    number = _checked(signum)
    handler = _registered.get(number)
    if handler is None:
        return False
    present: Any = signal.getsignal(number)
    if present is handler:
        signal.signal(number, handler.previous)
    del _registered[number]
    return True


def unregister_all() -> None:
    """Undoes every `register`."""
    for number in tuple(_registered):
        unregister(number)


def _checked(signum: int) -> int:
    number = operator.index(signum)
    if number not in signal.valid_signals():
        msg = f"signum={number} makes no sense: there is no such signal; SIGUSR1 and SIGUSR2 are free for such uses"
    elif number in {getattr(signal, "SIGKILL", None), getattr(signal, "SIGSTOP", None)}:
        msg = f"signum={number} makes no sense: {signal.Signals(number).name} cannot be handled; take SIGUSR1"
    elif number in FATAL:
        name = signal.Signals(number).name
        msg = f"signum={number} makes no sense: after {name} no Python code can run; faulthandler.enable() is for that"
    else:
        return number
    raise UsageError(msg)


class _Handler:
    """The handler of one signal."""

    def __init__(self, file: _File | int | None, previous: "signal._HANDLER", *, chain: bool) -> None:
        self._file = file
        self.previous = previous
        self._chain = chain
        self._pid = 0
        self._writing = native("_thread", "allocate_lock")()

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        """Runs in the main thread, wherever the signal finds it; raises only what the previous handler does."""
        is_registered = _registered.get(signum) is self
        if is_registered:
            self._dump(frame)
        if self._chain or not is_registered:  # somebody else may still chain to us
            self._call_previous(signum, frame, is_registered=is_registered)

    def _dump(self, frame: FrameType | None) -> None:
        if self._pid != os.getpid():  # in a forked child, the thread that held it did not come along
            self._writing = native("_thread", "allocate_lock")()
            self._pid = os.getpid()
        if not self._writing.acquire(False):
            return  # the one that is being written will do
        stacks = _stacks(frame)
        try:
            native("_thread", "start_new_thread")(self._write, (stacks, self._writing))
        except RuntimeError:  # too many threads; what needs no lock of ours can be told right here
            self._write(stacks, self._writing, is_alone=False)
        if self._chain and self._writing.acquire(True, MAX_WAIT):
            self._writing.release()

    def _write(self, stacks: Mapping[int, Stack], writing: "threading.Lock", *, is_alone: bool = True) -> None:
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        try:
            title = f"sockguard: dump of process {os.getpid()} at {at}"
            _write_text(self._file, render_dump(title, {"threads": _thread_lines(stacks)}) + "\n")
            if is_alone:  # apart from the above, in case that this waits for long
                _write_text(self._file, _describe() + "\n")
        except Exception:  # noqa: BLE001, S110 - a broken file, or one that was closed: there is nobody to tell
            pass
        finally:
            writing.release()

    def _call_previous(self, signum: int, frame: FrameType | None, *, is_registered: bool) -> None:
        if callable(self.previous):
            self.previous(signum, frame)
        elif self.previous == signal.SIG_DFL and is_registered:
            signal.signal(signum, signal.SIG_DFL)
            signal.raise_signal(signum)  # most often this is the end
            signal.signal(signum, self)


def _describe() -> str:
    if _source is None:
        return "No guard is installed in this process (sockguard.install), so no connections are known."
    try:
        return _source()
    except Exception as error:  # noqa: BLE001 - what else is in the dump must come out
        return f"The guard could not be described: {type(error).__name__}: {error}"


def _stacks(interrupted: FrameType | None) -> dict[int, Stack]:
    """Notes where each thread stands, the main thread first. It keeps no frames, which would keep locals."""
    main = native("_thread", "get_ident")()
    frames = frames_of_threads() or {main: sys._getframe()}  # noqa: SLF001 - as in frames.py
    own = frames.pop(main)
    try:
        return {main: _stack(interrupted or own)} | {ident: _stack(frame) for ident, frame in frames.items()}
    finally:
        del own, frames  # they have this frame: a cycle


def _stack(frame: FrameType | None) -> Stack:
    stack: list[tuple[CodeType, int]] = []
    while frame is not None and len(stack) < MAX_FRAMES:
        stack.append((frame.f_code, frame.f_lineno))
        frame = frame.f_back
    return stack


def _thread_lines(stacks: Mapping[int, Stack]) -> list[str]:
    # Not threading.enumerate(), which takes a lock, in a place where the main thread may hold it and wait for us.
    names = {ident: thread.name for ident, thread in tuple(threading._active.items())}  # type: ignore[attr-defined] # noqa: SLF001
    names.setdefault(next(iter(stacks)), "MainThread")  # gevent numbers greenlets, not threads
    return [
        f"{names.get(ident, 'not of threading')} ({ident})" + "".join(f"\n    {place(*call)}" for call in stack)
        for ident, stack in stacks.items()
    ]


def _write_text(file: _File | int | None, text: str) -> None:
    """Writes ASCII, as faulthandler does, so that no encoding can refuse it."""
    data = text.encode("ascii", "backslashreplace")
    if isinstance(file, int):
        while data:
            data = data[os.write(file, data) :]
        return
    target = sys.stderr if file is None else file
    try:
        target.write(data.decode())
    except TypeError:
        target.write(data)  # type: ignore[arg-type] # a binary file
    flush = getattr(target, "flush", None)
    with contextlib.suppress(TypeError):
        flush()  # type: ignore[misc] # not every file-like object has one
