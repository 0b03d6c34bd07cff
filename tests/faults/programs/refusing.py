"""Runs `sockguard` in a sandbox: refusing.py netlink,pidfd_getfd,setns ARGUMENTS.

A seccomp filter (seccomp(2)) answers the named calls with EPERM, as container runtimes do.
"""

import ctypes
import platform
import struct
import sys

SYSTEM_CALLS = {
    "x86_64": {"socket": 41, "setns": 308, "pidfd_getfd": 438},
    "aarch64": {"socket": 198, "setns": 268, "pidfd_getfd": 438},
}
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
LOAD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
ALLOW, REFUSE_WITH_EPERM = 0x7FFF0000, 0x00050001
OFFSET_NUMBER, OFFSET_FIRST_ARGUMENT = 0, 16
AF_NETLINK = 16


def instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)


def refusal(name: str, numbers: dict[str, int]) -> bytes:
    """Gives the instructions that refuse one call, and go on behind themselves otherwise."""
    if name == "netlink":
        return (
            instruction(JUMP_IF_EQUAL, numbers["socket"], 0, 4)
            + instruction(LOAD, OFFSET_FIRST_ARGUMENT)
            + instruction(JUMP_IF_EQUAL, AF_NETLINK, 0, 1)
            + instruction(RETURN, REFUSE_WITH_EPERM)
            + instruction(RETURN, ALLOW)
        )
    return instruction(JUMP_IF_EQUAL, numbers[name], 0, 1) + instruction(RETURN, REFUSE_WITH_EPERM)


def install(names: list[str]) -> None:
    numbers = SYSTEM_CALLS[platform.machine()]
    program = instruction(LOAD, OFFSET_NUMBER)
    program += b"".join(refusal(name, numbers) for name in names)
    program += instruction(RETURN, ALLOW)
    code = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("@HP", len(program) // 8, ctypes.addressof(code))
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    zero = ctypes.c_ulong(0)
    if prctl(PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), zero, zero, zero):
        sys.exit("no PR_SET_NO_NEW_PRIVS")
    if prctl(PR_SET_SECCOMP, ctypes.c_ulong(SECCOMP_MODE_FILTER), header, zero, zero):
        sys.exit("no PR_SET_SECCOMP")


if __name__ == "__main__":
    install(sys.argv.pop(1).split(","))
    from sockguard.__main__ import main

    main()
