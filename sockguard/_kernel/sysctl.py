"""What are the kernel's settings? /proc/sys, as numbers."""

from sockguard.errors import InternalError

__all__ = ["parse_sysctl", "read_sysctl"]


def parse_sysctl(text: str) -> int:
    """Decodes a sysctl that holds one number.

    Raises:
        InternalError: It holds something else.
    """
    try:
        return int(text)
    except ValueError as error:
        msg = f"not a single number: {text[:80]!r}"
        raise InternalError(msg) from error


def read_sysctl(name: str, proc: str = "/proc") -> int | None:
    """Reads a sysctl by its dotted name; None where this kernel, or this sandbox, has none."""
    try:
        with open(f"{proc}/sys/{name.replace('.', '/')}", encoding="ascii", errors="replace") as file:
            return parse_sysctl(file.read())
    except OSError:
        return None
