"""How to ask another network namespace: a netlink socket stays in the one it was made in.

setns(2) moves a single thread. So a thread of its own enters the namespace, opens the
socket and ends; no other thread of the process ever leaves home.
"""

import os
import socket
import threading

from sockguard._kernel.inet_diag import open_diag

__all__ = ["open_diag_in"]

CLONE_NEWNET = 0x40000000


def open_diag_in(pid: int) -> socket.socket:
    """Opens a sock_diag socket in the network namespace of a process. The caller closes it.

    Raises:
        OSError: The process is gone, or EPERM without CAP_SYS_ADMIN in that namespace.
        KernelUnavailable: Netlink is refused there.
    """
    outcome: list[socket.socket | Exception] = []

    def enter_and_open() -> None:
        try:
            with open(f"/proc/{pid}/ns/net", "rb") as namespace:
                _setns(namespace.fileno())
            outcome.append(open_diag())
        except Exception as error:  # noqa: BLE001 - handed to the caller below
            outcome.append(error)

    thread = threading.Thread(target=enter_and_open, name="sockguard-netns", daemon=True)
    thread.start()
    thread.join()
    if isinstance(outcome[0], Exception):
        raise outcome[0]
    return outcome[0]


def _setns(namespace: int) -> None:
    import ctypes  # noqa: PLC0415 - 8 ms that a plain import of sockguard should not pay

    if ctypes.CDLL(None, use_errno=True).setns(namespace, CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
