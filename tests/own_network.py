"""A network of its own for a process that runs tests: nobody else has its ports, or a row in its kernel's tables.

Several suites run side by side in CI. Ports are drawn from one pool for the whole network
namespace, and a port that is free on one address of loopback may be in use on another.
"""

import ctypes
import os
import shutil
import subprocess
import sys

__all__ = ["move_into_own_network"]

CLONE_NEWNET = 0x40000000


def move_into_own_network() -> str:
    """Moves this thread, and all that it starts, into a network namespace that has nothing but loopback.

    Returns:
        What became of it, in a few words.
    """
    if sys.platform != "linux" or not shutil.which("ip"):
        return "the machine's: that takes Linux and ip(8)"
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET):
        return f"the machine's: unshare() says {os.strerror(ctypes.get_errno())}"
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    return "one of its own"
