"""Is a cell right? What was seen in it is judged here, and put in few words; nothing is measured here."""

import re
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from faults.matrix_columns import Column
from faults.matrix_rows import Expect, Row
from netstat import CLOSE_WAIT

__all__ = ["Seen", "Verdict", "judge", "ours_in"]

NOT_PLAYED = "not played: "
LATE = "over only after "
AT_ONCE = 0.8
"""Seconds: what is over by then was ended by the program or the kernel; no limit here is as short."""


@dataclass
class Seen:
    """All that was seen in one cell; spans in seconds since the trouble began, None for never."""

    patients: list[dict[str, Any]] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    canary: str = ""
    fresh: str = ""
    is_alive: bool = True
    ours: list[str] = field(default_factory=list)
    events: list[str] = field(default_factory=list)
    causes: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    not_played: str = ""
    log: str = ""
    took: float = 0.0

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


class Verdict(NamedTuple):
    """The text for the table, and what is wrong, if anything is."""

    text: str
    wrong: tuple[str, ...] = ()

    @property
    def is_red(self) -> bool:
        return bool(self.wrong)

    @property
    def is_doubtful(self) -> bool:
        """Tells whether a machine that is too busy explains all that is wrong."""
        return self.is_red and all(word.startswith((LATE, NOT_PLAYED)) for word in self.wrong)


def judge(row: Row, column: Column, seen: Seen) -> Verdict:
    """Says in a few words what happened, and what of it must not."""
    if seen.not_played:
        return Verdict("not played", (NOT_PLAYED + seen.not_played,))
    wrong = [
        *(f"exception of ours: {line}" for line in seen.ours),
        *([] if seen.is_alive else ["the server died"]),
        *([f"healthy connection: {seen.canary}"] if seen.canary else []),
        *([f"new client: {seen.fresh}"] if seen.fresh else []),
        *(f"lost: {text}" for text in seen.lost if column.name not in row.is_limit_in),
    ]
    text, more = OUTCOMES[row.expect](row, column, seen)
    return Verdict(text, (*wrong, *more))


def _ended(row: Row, column: Column, seen: Seen) -> tuple[str, list[str]]:
    within = row.within_of(column.name)
    late = [p for p in seen.patients if p["ended_after"] is None or p["ended_after"] > within]
    if any(p["ended_after"] is None for p in late):
        state = "CLOSE_WAIT" if any(p["state"] == CLOSE_WAIT for p in late) else "ESTABLISHED"
        return f"still {state}", [f"{len(late)} of {len(seen.patients)} still {state}"]
    slowest = max(p["ended_after"] for p in seen.patients)
    wrong = [f"{LATE}{slowest:.1f} s, {within:g} s allowed"] if late else []
    if slowest < AT_ONCE and all(p["released_after"] is not None for p in seen.patients):
        return "closed by the program", wrong
    verb = "healed" if row.expect is Expect.HEALED else "ended"
    return f"{verb} {slowest:.1f} s, {_fd(seen)}", wrong


def _fd(seen: Seen) -> str:
    released = [p["released_after"] for p in seen.patients]
    if None in released:
        return f"fd kept by owner ({', '.join(seen.causes)})" if seen.causes else "fd kept by owner"
    slowest = max(released)
    ended = max(p["ended_after"] for p in seen.patients)
    return "fd released" if slowest - ended < AT_ONCE else f"fd released {slowest:.1f} s"


def _survived(row: Row, column: Column, seen: Seen) -> tuple[str, list[str]]:
    if seen.lost:
        return "LOST", []
    return "survived", []


def _reported(row: Row, column: Column, seen: Seen) -> tuple[str, list[str]]:
    if seen.lost:
        return "closed", []
    if row.event not in seen.events:
        return "not reported", [f"no {row.event} in the log"]
    return "reported, not closed", []


def _freed(row: Row, column: Column, seen: Seen) -> tuple[str, list[str]]:
    released = [p["released_after"] for p in seen.patients]
    if None not in released:
        slowest = max(released)
        return ("closed by the program" if slowest < AT_ONCE else f"fd released {slowest:.1f} s"), []
    if {"dead_fd", "ended_by_guard"} & set(seen.causes):
        return f"fd kept by owner (reported as {', '.join(seen.causes)})", []
    return "dead fd kept", ["a dead descriptor is kept and not reported"]


def _served(row: Row, column: Column, seen: Seen) -> tuple[str, list[str]]:
    if seen.lost:
        return ("no service: fds kept by owner" if column.name in row.is_limit_in else "no service"), []
    return next((note for note in seen.notes if note.startswith("served after")), "not played"), []


OUTCOMES = {
    Expect.HEALED: _ended,
    Expect.ENDED: _ended,
    Expect.SURVIVED: _survived,
    Expect.REPORTED: _reported,
    Expect.FREED: _freed,
    Expect.SERVED: _served,
}


OUR_FRAME = re.compile(r'^\s*(?:\|\s*)?File ".*/sockguard/[^"]*"')
LAST_LINE = re.compile(r"^(?:\s*\|\s*)?(?:[A-Za-z_]\w*\.)*[A-Za-z_]\w*(?:Error|Exception|Exit|Lost|Unavailable)\b")


def ours_in(text: str) -> list[str]:
    """Finds the exceptions in a program's log that were raised in sockguard's own code.

    An OSError does not count: the wrapper of accept() passes on what accept() raised.
    """
    found, is_ours = [], False
    for line in text.splitlines():
        if 'File "' in line:
            is_ours = bool(OUR_FRAME.match(line))
        elif LAST_LINE.match(line):
            if is_ours and "OSError" not in line and "Errno" not in line:
                found.append(line.strip())
            is_ours = False
    return found
