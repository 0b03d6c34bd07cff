"""Which leftovers are wanted? Lines such as `created-by:app.pool.connect`, each a kind and a pattern."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from sockguard._core.leftovers import Leftover
from sockguard.errors import UsageError

__all__ = ["IgnoreRule", "fits", "parse_rule"]


def _created_by(leftover: Leftover, pattern: str) -> bool:
    return any(fits(pattern, function) for function in leftover.created_by)


def _peer(leftover: Leftover, pattern: str) -> bool:
    return bool(leftover.remote) and fits(pattern, leftover.remote)


def _port(leftover: Leftover, pattern: str) -> bool:
    is_internet = leftover.protocol != "Unix"
    return is_internet and pattern in (_port_of(leftover.local), _port_of(leftover.remote))


def _path(leftover: Leftover, pattern: str) -> bool:
    is_unix = leftover.protocol == "Unix"
    return is_unix and (fits(pattern, leftover.local) or fits(pattern, leftover.remote))


def _port_of(address: str) -> str:
    return address.rpartition(":")[2]


KINDS: Mapping[str, Callable[[Leftover, str], bool]] = {
    "created-by": _created_by,
    "peer": _peer,
    "port": _port,
    "path": _path,
}
"""What stands before the colon, and how it is compared."""
FORMS = "created-by:module.function, peer:host:port, port:N or path:/run/x.sock; * stands for anything"


class IgnoreRule(NamedTuple):
    """One line of an ignore list."""

    kind: str
    pattern: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.pattern}"

    def matches(self, leftover: Leftover) -> bool:
        """Tells whether this leftover is wanted."""
        return KINDS[self.kind](leftover, self.pattern)


def parse_rule(line: str) -> IgnoreRule:
    """Reads a line of an ignore list.

    Raises:
        UsageError: It has none of the known forms.
    """
    kind, colon, pattern = (part.strip() for part in line.partition(":"))
    is_odd = kind == "port" and not pattern.isdecimal()
    if kind not in KINDS or not colon or not pattern or is_odd:
        msg = f"{line.strip()!r} says not what to ignore: write {FORMS}"
        raise UsageError(msg)
    return IgnoreRule(kind, pattern)


def fits(pattern: str, text: str) -> bool:
    """Compares a text with a pattern, in which `*` stands for any characters, or none."""
    head, *rest = pattern.split("*")
    if not rest:
        return text == pattern
    if not text.startswith(head):
        return False
    text = text[len(head) :]
    *middle, tail = rest
    for part in middle:
        position = text.find(part)
        if position < 0:
            return False
        text = text[position + len(part) :]
    return text.endswith(tail)
