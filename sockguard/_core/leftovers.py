"""What did the code under test leave open? One record for each socket, and the words that tell of it.

A leftover is not always a leak in the sense of `_core/leaks.py`: its peer may still be there.
Who opens a socket in a test has to close it in that test all the same. Where the peer has
hung up, or the connection was never accepted, the cause is that of `_core/causes.py`.
"""

from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from typing import NamedTuple

from sockguard._core.facts import LEAK_STATES

__all__ = ["Leftover", "LeftoverCause", "Sketch", "headline", "lines_of", "story"]

_LEAK_STATES = frozenset(state.name for state in LEAK_STATES)


class LeftoverCause(StrEnum):
    """Why a socket is left over, where the kernel has nothing to say against its connection."""

    UNCLOSED = "unclosed"
    RETAINED = "retained"
    KEPT_BY_CHILD = "kept_by_child"

    @property
    def remedy(self) -> str:
        """What to do about it, in a sentence."""
        return _REMEDIES[self]


_REMEDIES = {
    LeftoverCause.UNCLOSED: (
        "Nobody closed it, it was only thrown away: close it in finally or with, or in the teardown of the fixture."
    ),
    LeftoverCause.RETAINED: (
        "It is still referred to and open: close it (or the client, pool or server that owns it) before the test ends, "
        "or in the teardown of a fixture that lives as long as it does."
    ),
    LeftoverCause.KEPT_BY_CHILD: (
        "A process that the test started has a copy of it: end that process, or close inherited sockets in it, "
        "and shutdown() before close() here."
    ),
}


class Sketch(NamedTuple):
    """What the kernel tells of one socket of any family, in words."""

    protocol: str
    """TCP, UDP, Unix, or the name of another kind."""
    state: str
    """As `ss` has it for TCP; ESTABLISHED, LISTEN or UNCONNECTED for the others."""
    local: str
    """Its address: "127.0.0.1:8000", a path, or ""."""
    remote: str
    """That of its peer; "" if it has none."""

    @property
    def is_sick(self) -> bool:
        """Tells whether its peer has hung up, or its connection is over, and it is open still."""
        return self.state in _LEAK_STATES


class Leftover(NamedTuple):
    """One socket that was left open: which, by whom, where it was opened, who holds it."""

    cause: str
    remedy: str
    protocol: str
    state: str
    local: str
    remote: str
    fd: int | None
    """None if it is closed by now, or was never accepted."""
    inode: int | None
    pid: int
    """The process that holds it."""
    age_seconds: float | None
    """Seconds since it was opened; since the peer was last heard of, where the cause says that it hung up."""
    created_at: tuple[str, ...]
    """The calls that opened it, innermost first; empty where that was done in C."""
    created_by: tuple[str, ...]
    """The same as `module.Class.function`: what a line `created-by:` of the ignore list is compared with."""
    source: str
    """The line of code of the application that opened it."""
    source_at: str
    """Which of `created_at` it is."""
    held_by: tuple[str, ...]
    """Which objects refer to it."""
    owner: str
    """Who is charged: the node id of a test, or the name of a fixture with its scope."""
    opened_in: str
    """What ran when it was opened, if that is not the owner."""
    fixture: str
    """The fixture of the test that opened it; "" if the test itself did."""

    def __repr__(self) -> str:
        return f"Leftover({self.cause}, {headline(self)})"

    @property
    def ignore_line(self) -> str:
        """The line for the ini option `socket_leaks_ignore` that would leave this one out; "" if there is none."""
        has_address = bool(self.local or self.remote)
        if self.created_by and (self.source_at or not has_address):
            return f"created-by:{self.created_by[0]}"
        if not has_address:
            return ""
        if self.protocol in ("TCP", "UDP"):
            return f"peer:{self.remote}" if self.remote else f"port:{self.local.rpartition(':')[2]}"
        return f"path:{self.local or self.remote}"

    @property
    def site(self) -> str:
        """The line that opened it, of the application if that is known: what the summary is grouped by."""
        return self.source_at or next(iter((*self.created_at, *self.held_by)), "(a place not seen)")


def headline(leftover: Leftover) -> str:
    """Says which socket it is: "TCP 127.0.0.1:8000 -> 127.0.0.1:5000, ESTABLISHED, fd 9"."""
    peer = f" -> {leftover.remote}" if leftover.remote else ""
    where = f" {leftover.local}{peer}" if leftover.local or peer else ""
    fd = f", fd {leftover.fd}" if leftover.fd is not None else ""
    age = f", {_age(leftover.age_seconds)} old" if leftover.age_seconds is not None else ""
    return f"{leftover.protocol}{where}, {leftover.state}{fd}{age}"


def _age(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def lines_of(leftover: Leftover) -> Iterator[str]:
    """Tells of one leftover, a line for each thing that is known."""
    yield headline(leftover)
    rows: list[tuple[str, Sequence[str]]] = [
        ("cause", [leftover.cause]),
        ("opened at", _places(leftover)),
        ("opened in", [leftover.opened_in] if leftover.opened_in else []),
        ("by fixture", [leftover.fixture] if leftover.fixture else []),
        ("held by", leftover.held_by),
        ("remedy", [leftover.remedy]),
        ("to ignore", [f"socket_leaks_ignore = {line}"] if (line := leftover.ignore_line) else []),
    ]
    for name, values in rows:
        yield from (f"  {name if number == 0 else '':<11}{value}" for number, value in enumerate(values))


def _places(leftover: Leftover) -> list[str]:
    """Lists the calls, with the line of code below that of the application which it stands in."""
    if not leftover.created_at:
        return ["(not seen: in C, or before anybody looked)"]
    return [row for place in leftover.created_at for row in _with_source(place, leftover)]


def _with_source(place: str, leftover: Leftover) -> list[str]:
    is_it = bool(leftover.source) and place == leftover.source_at
    return [place, f"    {leftover.source}"] if is_it else [place]


def story(owner: str, leftovers: Iterable[Leftover]) -> str:
    """Tells what somebody left open; the first line is a summary of the rest."""
    told = list(leftovers)
    noun = "socket" if len(told) == 1 else "sockets"
    sites = list(dict.fromkeys(leftover.site for leftover in told))
    others = f" and {len(sites) - 1} other places" if len(sites) > 1 else ""
    body = "\n".join(f"  {line}".rstrip() for leftover in told for line in ("", *lines_of(leftover)))
    return f"{len(told)} {noun} left open, opened at {next(iter(sites), 'no place')}{others}, by {owner}\n{body}"
