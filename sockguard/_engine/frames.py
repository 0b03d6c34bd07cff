"""Where does each thread stand? Asked only where no other interpreter of this process can be harmed by it.

Danger. `sys._current_frames()` goes through the threads of all interpreters, and makes an
object for each frame that has none yet (`_PyThread_CurrentFrames`, Python/pystate.c of CPython
3.12 to 3.15). It takes the memory of the interpreter that asks. One that is isolated has
memory of its own, so the thread that leaves such a frame frees what is not its own, and the
process ends: "free(): invalid pointer". It does so whether the main interpreter asks or the other.

Choice. In an isolated interpreter, and in any as long as there is another one that Python code
has made, nobody is asked. What only explains is left out then; what acts takes the worst for granted.
"""

import sys
from types import FrameType

from sockguard._kernel.natives import native

__all__ = ["frames_of_threads"]

HAVE_OWN_MEMORY = sys.version_info >= (3, 12)
"""Whether there are interpreters with memory of their own."""
_MAKERS = ("_interpreters", "_xxsubinterpreters")
"""The module that makes interpreters: the first from Python 3.13 on."""


def frames_of_threads() -> dict[int, FrameType] | None:
    """Gives the innermost frame of each thread, by its number; None if that cannot be asked."""
    if HAVE_OWN_MEMORY and _are_others_near():
        return None
    return sys._current_frames()  # noqa: SLF001 - the documented way to look at other threads, for all its underscore


def _are_others_near() -> bool:
    """Tells whether a thread may run in an interpreter that has other memory than this one.

    Only one that is isolated allows no daemon threads; those that mod_wsgi makes share all memory.
    """
    if not native("_thread", "daemon_threads_allowed")():
        return True
    modules = (sys.modules.get(name) for name in _MAKERS)
    return any(module is not None and len(module.list_all()) > 1 for module in modules)
