"""Which signals do threads of ours take? The guard's own none; those that it starts, what the program's threads take.

A thread inherits the mask of the one that starts it, and so does a process. So what a log handler
starts, on a thread that the guard has started, would ignore SIGTERM for good.

But to block nothing there is no way out: a program that blocks a signal in all its threads, to take it by sigwait(),
would be killed by it in one that it does not know of. So a thread that the guard starts blocks what the thread
did that has started the guard, and what the main thread blocks by now.
"""

import signal
from contextlib import suppress

from sockguard._kernel.natives import native

__all__ = ["SIGNALS", "block_signals", "mask_of_new_thread", "own_mask", "set_mask"]

_OF_FAULTS = ("SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGABRT")
SIGNALS = signal.valid_signals() - {getattr(signal, name) for name in _OF_FAULTS if hasattr(signal, name)}
"""All but those of a fault, which come to the thread that caused it; blocked, they would kill past `faulthandler`."""

_here = native("_thread", "_local")()


def own_mask() -> set[int]:
    """Tells which signals this thread blocks; none, where threads cannot."""
    return {*signal.pthread_sigmask(signal.SIG_BLOCK, ())} if hasattr(signal, "pthread_sigmask") else set()


def set_mask(mask: set[int]) -> None:
    """Has this thread block these signals and no others, where threads can."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def block_signals(of_program: set[int]) -> None:
    """Blocks all signals in this thread, where threads can.

    Args:
        of_program: What the program's thread blocks that has started this one.
    """
    _here.of_program = of_program
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


def mask_of_new_thread() -> set[int]:
    """Tells which signals a thread is to block that this one starts: what it does itself, unless it is the guard's."""
    of_program: set[int] | None = getattr(_here, "of_program", None)
    return own_mask() if of_program is None else of_program | _mask_of_main_thread()


def _mask_of_main_thread(proc: str = "/proc") -> set[int]:
    with suppress(OSError), open(f"{proc}/self/status", "rb") as file:
        return parse_mask(file.read())
    return set()


def parse_mask(status: bytes) -> set[int]:
    """Reads from a status of /proc which signals are blocked there; proc(5), "SigBlk"."""
    _, _, rest = status.partition(b"\nSigBlk:")
    bits = int(rest.split(maxsplit=1)[0], 16) if rest else 0
    return {number for number in signal.valid_signals() if bits >> (number - 1) & 1}
