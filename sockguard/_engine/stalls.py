"""Is an event loop late, and in which line? One call_soon_threadsafe per loop and second.

The thread of the guard asks for a sign of life and looks a second later. If none came, a
callback is blocking the loop, and the stack of its thread says which.
"""

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from sockguard._engine.frames import frames_of_threads
from sockguard._engine.record import LoopRef
from sockguard._engine.sites import main_line, place
from sockguard._kernel.natives import native

if TYPE_CHECKING:
    from types import FrameType

__all__ = ["STALL_AFTER", "Stall", "StallWatch"]

STALL_AFTER = 1.0
"""Seconds without a sign of life that count as a stall. asyncio's debug mode warns of 0.1 s,
which a garbage collection or a busy machine takes, too; at 1 s a user feels it."""
MAX_FRAMES = 12


_get_ident = native("_thread", "get_ident")


class Stall(NamedTuple):
    """A loop that does not come round."""

    loop: LoopRef
    thread: str
    """The name of its thread."""
    seconds: float
    where: tuple[str, ...]
    """The stack of its thread, innermost call first."""


class StallWatch:
    """Asks the known loops for a sign of life."""

    def __init__(self) -> None:
        self._loops: dict[int, LoopRef] = {}

    def loop_ref(self, loop: Any) -> LoopRef:
        """Gives the reference of the loop that runs in this thread, a new one for a new loop; hot."""
        ref = self._loops.get(id(loop))
        if ref is None or ref.ref() is not loop:
            self._loops[id(loop)] = ref = LoopRef(loop, _get_ident())
        return ref

    def stalled(self) -> list[LoopRef]:
        """Lists the loops that give no sign of life, as far as was reported."""
        return [ref for ref in list(self._loops.values()) if ref.stalled_at is not None]

    def check(self, now: float) -> Iterator[Stall]:
        """Asks all loops, and tells of each that has newly stalled."""
        for key, ref in list(self._loops.items()):
            loop = ref.ref()
            if loop is None or loop.is_closed():
                del self._loops[key]
            elif ref.asked_at is None:
                if now - ref.answered_at >= STALL_AFTER:
                    self._ask(ref, loop, now)
            elif ref.stalled_at is None and now - ref.asked_at > STALL_AFTER and loop.is_running():
                ref.stalled_at = ref.asked_at
                yield Stall(ref, thread_name(ref.thread_id), now - ref.asked_at, where_is(ref.thread_id))

    def _ask(self, ref: LoopRef, loop: Any, now: float) -> None:
        def answer() -> None:
            ref.answered_at = now
            ref.asked_at = ref.stalled_at = None

        ref.asked_at = now  # before: the answer may come at once
        try:
            loop.call_soon_threadsafe(answer)
        except RuntimeError:
            ref.asked_at = None  # closed meanwhile

    def forget(self) -> None:
        """Drops all loops: those of the parent do not run in a forked child."""
        self._loops.clear()


def where_is(thread_id: int) -> tuple[str, ...]:
    """Tells in which line of the application a thread is, and who called it, innermost first; empty if it has ended.

    What the application has called in a library (`lock.acquire` within `threading`) is left out.
    """
    frame = (frames_of_threads() or {}).get(thread_id)
    frames: list[FrameType] = []
    while frame is not None:
        frames.append(frame)
        frame = frame.f_back
    stack = [place(frame.f_code, frame.f_lineno) for frame in frames]
    line = main_line(frames)
    start = stack.index(line) if line in stack else 0
    return tuple(stack[start : start + MAX_FRAMES])


def thread_name(thread_id: int) -> str:
    """Names a thread as `threading` knows it, without making a stand-in for one that it does not."""
    threads = sys.modules.get("threading")
    for thread in threads.enumerate() if threads else ():
        if thread.ident == thread_id:
            return str(thread.name)
    return str(thread_id)
