"""Sandboxes: a seccomp filter that refuses one system call, as containers do."""

import ctypes
import platform
import struct

import pytest

__all__ = ["PIDFD_GETFD", "PIDFD_OPEN", "SOCKET", "needs_seccomp", "refuse"]

PIDFD_OPEN, PIDFD_GETFD = 434, 438
SOCKET = {"x86_64": 41, "aarch64": 198}.get(platform.machine(), -1)

needs_seccomp = pytest.mark.skipif(
    SOCKET == -1, reason="the number of socket(2) on this machine is not known to the test"
)

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
ALLOW, FAIL_WITH = 0x7FFF0000, 0x00050000
LOAD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
OFFSET_OF_NUMBER, OFFSET_OF_FIRST_ARGUMENT = 0, 16


def refuse(system_call: int, error: int, first_argument: int | None = None) -> None:
    """Makes a system call of this process fail from now on, for ever; so only a child should call it.

    Args:
        first_argument: Only calls with this one (its lower 32 bits).
    """
    program = [
        (LOAD, 0, 0, OFFSET_OF_NUMBER),
        (JUMP_IF_EQUAL, 0, 3, system_call),
        (LOAD, 0, 0, OFFSET_OF_FIRST_ARGUMENT),
        (JUMP_IF_EQUAL, 0, int(first_argument is not None), first_argument or 0),
        (RETURN, 0, 0, FAIL_WITH | error),
        (RETURN, 0, 0, ALLOW),
    ]
    instructions = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in program))
    filter_ = ctypes.create_string_buffer(struct.pack("@HP", len(program), ctypes.addressof(instructions)))
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    for arguments in (
        (PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
        (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.addressof(filter_), 0, 0),
    ):
        if prctl(*map(ctypes.c_ulong, arguments)) != 0:
            raise OSError(ctypes.get_errno(), "seccomp is not to be had here")
