"""The captured kernel data in tests/kernel/data; how it was made is told there."""

import struct
from pathlib import Path

__all__ = ["DATA", "datagrams", "dump"]

DATA = Path(__file__).parent / "kernel" / "data"


def datagrams(name: str) -> list[bytes]:
    """Reads the netlink datagrams of a dump file, each as recv() gave it."""
    data = (DATA / name).read_bytes()
    found = []
    offset = 0
    while offset < len(data):
        (length,) = struct.unpack_from("<I", data, offset)
        found.append(data[offset + 4 : offset + 4 + length])
        assert len(found[-1]) == length, f"{name} is cut off"
        offset += 4 + length
    return found


def dump(name: str) -> bytes:
    """Reads a dump file as one run of netlink messages."""
    return b"".join(datagrams(name))
