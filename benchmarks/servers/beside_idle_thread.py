"""Runs a program beside a thread that does nothing: `beside_idle_thread.py PROGRAM [ARGUMENT...]`.

It waits in ticks, as the guard's does. A process with two threads pays for each system call that
names a descriptor (the kernel then counts references to the file) and in the C library's locks.
"""

import _thread
import runpy
import sys

TICK = 0.25


def wait() -> None:
    """Waits for ever, in ticks."""
    lock = _thread.allocate_lock()
    lock.acquire()
    while True:
        lock.acquire(timeout=TICK)


if __name__ == "__main__":
    sys.argv = sys.argv[1:]
    sys.path[0] = sys.argv[0].rpartition("/")[0]
    _thread.start_new_thread(wait, ())
    runpy.run_path(sys.argv[0], run_name="__main__")
