"""What is known by descriptor: a list, in place of a dict.

Descriptors are small numbers: each new one is the lowest that is free (POSIX, "File Descriptor
Allocation"). A dict takes 37 bytes for each, and 74 where they come and go; a list takes 8 or 9.
It is as long as the highest number ever put in.
"""

from collections.abc import Iterator, MutableMapping
from typing import TypeVar, overload

__all__ = ["FdTable"]

Value = TypeVar("Value")
Other = TypeVar("Other")


class FdTable(MutableMapping[int, Value]):
    """A mapping from descriptor to anything but None, in the order of the numbers.

    To be changed by one thread; others may read meanwhile.
    """

    def __init__(self) -> None:
        self._values: list[Value | None] = []
        self._n = 0

    def __len__(self) -> int:
        return self._n

    def __iter__(self) -> Iterator[int]:
        return iter([fd for fd, value in enumerate(self._values) if value is not None])

    def __contains__(self, fd: object) -> bool:
        return isinstance(fd, int) and self.get(fd) is not None

    @overload
    def get(self, fd: int, default: None = None, /) -> Value | None: ...
    @overload
    def get(self, fd: int, default: Value | Other, /) -> Value | Other: ...
    def get(self, fd: int, default: Other | None = None, /) -> Value | Other | None:
        """Gives what is known of a descriptor."""
        values = self._values
        value = values[fd] if 0 <= fd < len(values) else None
        return default if value is None else value

    def __getitem__(self, fd: int) -> Value:
        value = self.get(fd)
        if value is None:
            raise KeyError(fd)
        return value

    def __setitem__(self, fd: int, value: Value) -> None:
        if fd < 0:
            msg = f"{fd} is no descriptor"
            raise ValueError(msg)
        values = self._values
        if fd >= len(values):
            values.extend([None] * (fd + 1 - len(values)))
        self._n += values[fd] is None
        values[fd] = value

    def __delitem__(self, fd: int) -> None:
        if fd not in self:
            raise KeyError(fd)
        self._values[fd] = None
        self._n -= 1

    def listed(self) -> list[Value]:
        """Lists all values as they are at one moment, while another thread may change them."""
        return [value for value in self._values.copy() if value is not None]  # a copy is made in one step
