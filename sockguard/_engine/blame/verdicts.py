"""What is to be said of a socket that was left open? Causes, places and holders, worked out for the guilty only."""

import gc
import linecache
import warnings
from collections.abc import Iterable
from types import CodeType
from typing import NamedTuple

from sockguard._core.facts import Holder
from sockguard._core.leaks import Cause, Leak, find_leaks
from sockguard._core.leftovers import Leftover, LeftoverCause, Sketch
from sockguard._engine.blame.births import Birth, Call, Death
from sockguard._engine.blame.ledger import IN_CHILD, Owner, Suspect
from sockguard._engine.referrers import held_by
from sockguard._engine.sites import Frame, Site, is_application, line_of, place
from sockguard._kernel.linux import look_at_self
from sockguard._kernel.natives import monotonic, system
from sockguard._kernel.own_fds import read_all_sockets
from sockguard._kernel.own_sockets import sketch_socket
from sockguard._kernel.pidfd import borrow_socket
from sockguard.errors import InternalError, KernelUnavailable

__all__ = ["Charge", "charge_deaths", "charge_queued", "charge_suspects", "find_sick"]

MAX_SEARCH = 1.0
"""Seconds for searching who holds what, in one judgement."""
NOWHERE = Sketch("socket", "closed by now", "", "")


class Charge(NamedTuple):
    """What an owner is charged with."""

    owner: Owner
    leftover: Leftover


def find_sick() -> list[Leak]:
    """Finds the connections of this process whose peer has hung up, however short ago."""
    try:
        return find_leaks(look_at_self(), min_age=0.0, pids=[system.getpid()])
    except (OSError, InternalError):
        return []  # no descriptor left to ask with


def charge_suspects(suspects: list[Suspect]) -> list[Charge]:
    """Works out why these are open. Collects garbage, to tell what was thrown away from what is kept."""
    if not suspects:
        return []
    is_any_sick = any(suspect.sketch.is_sick for suspect in suspects)
    sick = {leak.inode: leak for leak in find_sick()} if is_any_sick else {}
    suspects = _without_closed(suspects)
    _collect_garbage()
    living = read_all_sockets()
    search_until = monotonic() + MAX_SEARCH
    return [_charge(s, sick.get(s.birth.inode), s.birth.inode in living, search_until) for s in suspects]


def _without_closed(suspects: list[Suspect]) -> list[Suspect]:
    """Leaves out what a thread has closed since the last look; not what the collector has, which runs anywhere."""
    living = read_all_sockets()
    for suspect in suspects:
        birth = suspect.birth
        birth.is_told = suspect.child is not None or birth.is_thrown_away or birth.inode in living
    return [suspect for suspect in suspects if suspect.birth.is_told]


def _collect_garbage() -> None:
    """Collects garbage. Of the sockets among it we tell ourselves; pytest would fail the next test for the warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def _charge(suspect: Suspect, leak: Leak | None, is_open: bool, search_until: float) -> Charge:
    cause: LeftoverCause | Cause = LeftoverCause.RETAINED
    if suspect.child is not None:
        cause = LeftoverCause.KEPT_BY_CHILD
    elif not is_open:
        cause = LeftoverCause.UNCLOSED
    elif leak is not None:
        cause = leak.cause
    holders = _holders(suspect.birth, search_until) if is_open else []
    if suspect.child is not None:
        holders = [f"process {suspect.child.pid}: {suspect.child.command}"]
    birth = suspect.birth
    sketch = _borrowed_sketch(suspect.child) if suspect.child else suspect.sketch
    leftover = _leftover(birth, suspect.owner, sketch, cause)
    age = leak.age_seconds if leak is not None and is_open else leftover.age_seconds
    return Charge(
        suspect.owner,
        leftover._replace(
            fd=suspect.fd,
            pid=suspect.child.pid if suspect.child else system.getpid(),
            held_by=tuple(holders),
            age_seconds=age,
        ),
    )


def _borrowed_sketch(holder: Holder) -> Sketch:
    try:
        with borrow_socket(holder.pid, holder.fd) as sock:
            return sketch_socket(sock) or IN_CHILD
    except (OSError, KernelUnavailable):
        return IN_CHILD


def _holders(birth: Birth, search_until: float) -> list[str]:
    """Finds who refers to a socket; pytest does so to the values of a test's fixtures until all is over."""
    found: dict[str, str] = {}
    for sock in birth.objects():
        for holder in held_by(sock, max(0.0, search_until - monotonic())):
            is_pytest = "'funcargs' of" in holder
            text = f"the value of fixture '{birth.moment.fixture}'" if is_pytest and birth.moment.fixture else holder
            found[text] = text
    return list(found)


def charge_deaths(deaths: Iterable[Death]) -> list[Charge]:
    """Tells of sockets that were thrown away while they were open."""
    return [
        Charge(
            death.birth.moment.owner,
            _leftover(death.birth, death.birth.moment.owner, death.sketch or NOWHERE, LeftoverCause.UNCLOSED),
        )
        for death in deaths
    ]


def charge_queued(leaks: Iterable[Leak], owner: Owner) -> list[Charge]:
    """Tells of connections that wait in an accept queue and whose client has gone."""
    return [
        Charge(
            owner,
            Leftover(
                cause=leak.cause.value,
                remedy=leak.remedy,
                protocol="TCP",
                state=leak.state,
                local=str(leak.local.unmapped),
                remote=str(leak.remote.unmapped) if leak.remote else "",
                fd=None,
                inode=None,
                pid=system.getpid(),
                age_seconds=leak.age_seconds,
                created_at=(),
                created_by=(),
                source="",
                source_at="",
                held_by=(f"the accept queue of {leak.local.unmapped}",),
                owner=owner.name,
                opened_in="",
                fixture="",
            ),
        )
        for leak in leaks
    ]


def _leftover(birth: Birth, owner: Owner, sketch: Sketch, cause: LeftoverCause | Cause) -> Leftover:
    frames = tuple(_frame(call) for call in birth.calls)
    site = Site(frames)
    source_at, source = _source(frames)
    return Leftover(
        cause=cause.value,
        remedy=cause.remedy,
        protocol=sketch.protocol,
        state=sketch.state,
        local=sketch.local,
        remote=sketch.remote,
        fd=None,
        inode=birth.inode,
        pid=system.getpid(),
        age_seconds=monotonic() - birth.at,
        created_at=site.frames() if frames else (),
        created_by=_functions(frames),
        source=source,
        source_at=source_at,
        held_by=(),
        owner=owner.name,
        opened_in=birth.opened_in.name if birth.opened_in is not owner else "",
        fixture=birth.moment.fixture,
    )


def _frame(call: Call) -> Frame:
    return Frame(call.code, call.lasti, call.module)


def _functions(frames: tuple[Frame, ...]) -> tuple[str, ...]:
    """Names the functions of the application on a stack, innermost first; those of libraries come after them."""
    ours = [frame for frame in frames if is_application(frame)]
    rest = [frame for frame in frames if not is_application(frame) and not frame.module.startswith("_pytest")]
    return tuple(dict.fromkeys(f"{frame.module}.{_qualname(frame.code)}" for frame in (*ours, *rest)))


def _qualname(code: CodeType) -> str:
    return code.co_qualname.replace("<locals>.", "")


def _source(frames: tuple[Frame, ...]) -> tuple[str, str]:
    """Reads the innermost line of the application: where it stands, and its text."""
    frame = next((frame for frame in frames if is_application(frame)), None)
    line = line_of(frame) if frame else None
    if frame is None or line is None:
        return "", ""
    return place(frame.code, line), linecache.getline(frame.code.co_filename, line).strip()
