"""`sockguard reap`: end leaked connections of a process without restarting it.

The only command that acts, and a dry run unless it is told --yes.
"""

import json
import time
from collections.abc import Iterator
from typing import NamedTuple

import click

from sockguard._core.facts import Holder, Snapshot
from sockguard._core.leaks import Cause, Leak, find_leaks
from sockguard._core.two_looks import keep_still
from sockguard._kernel.ending import NotTheSame, StillAlive, destroy_unaccepted, shut_down
from sockguard._kernel.linux import look_at_processes
from sockguard.cli.options import json_option, pid_option, span_of_time
from sockguard.cli.report import exit_status, tell_unseen, was_seen
from sockguard.errors import SockguardError
from sockguard.outputs.json import leak_as_dict, timestamp

__all__ = ["Result", "reap"]

OLDER_THAN = 60.0
"""Six times what the report calls a leak: HAProxy's and eghostbuster's patience as well."""
WATCH_SECONDS = 1.0
"""Between two looks; what moves in between is alive and is left alone."""
REMAINS = "Ending a connection ends it for TCP; its descriptor stays open in its owner, who sees EOF on it."


class Result(NamedTuple):
    """What became of one leaked connection."""

    leak: Leak
    outcome: str
    """ended, would end, refused, gone, or failed."""
    why: str


@click.command()
@pid_option("Whose leaks; may be given again.", required=True)
@click.option(
    "--older-than",
    type=span_of_time,
    default=OLDER_THAN,
    show_default=True,
    metavar="S",
    help="Only what has stood still for so many seconds.",
)
@click.option(
    "--cause",
    "causes",
    type=click.Choice([cause.value for cause in Cause]),
    multiple=True,
    help="Only leaks of this cause; may be given again.",
)
@click.option("--yes", is_flag=True, help="Act. Without it, only say what would be done.")
@click.option("--destroy", is_flag=True, help="Also reset connections that were never accepted (needs CAP_NET_ADMIN).")
@json_option
def reap(
    pids: tuple[int, ...], older_than: float, causes: tuple[str, ...], yes: bool, destroy: bool, as_json: bool
) -> int:
    """Shuts down leaked connections of running processes, in any language.

    The connection ends for TCP, and nothing that the peer sent is lost. The descriptor
    stays open in its owner, who sees EOF on it: only the program itself can close that.
    What made progress within a second's watch is refused. Exit status: 0 nothing is
    left to end, 1 leaks are left, 2 could not look.
    """
    chosen = sorted(set(pids))
    first = look_at_processes(chosen)
    tell_unseen(first)
    if not was_seen(first, chosen):
        return exit_status(first, [])
    results: list[Result] = []
    try:
        for result in _treat_all(first, chosen, older_than, causes, yes=yes, destroy=destroy):
            results.append(result)
            if not as_json:
                print(_line(result))
    finally:  # what has been done is told, whatever comes in between
        _conclude(first, results, as_json=as_json, yes=yes)
    is_left = any(result.outcome not in ("ended", "gone") for result in results)
    return 1 if is_left else exit_status(first, [])


def _treat_all(
    first: Snapshot, pids: list[int], older_than: float, causes: tuple[str, ...], *, yes: bool, destroy: bool
) -> Iterator[Result]:
    leaks = find_leaks(first, min_age=older_than, pids=pids)
    candidates = [leak for leak in leaks if leak.cause in (causes or Cause)]
    if not candidates:
        return
    started = time.monotonic()
    time.sleep(WATCH_SECONDS)
    second = look_at_processes(pids)
    cookies = {facts.cookie for facts in second.sockets}
    second = keep_still(first, second, time.monotonic() - started)
    still = {_key(leak): leak for leak in find_leaks(second, min_age=older_than, pids=pids)}
    for before in candidates:
        leak = still.get(_key(before))
        if leak:
            yield _treat(second, leak, yes=yes, destroy=destroy)
        elif before.cookie in cookies:
            yield Result(before, "refused", f"it made progress within {WATCH_SECONDS:g} s")
        else:
            yield Result(before, "gone", "it ended by itself")


def _key(leak: Leak) -> tuple[object, ...]:
    return (leak.connection.identity, leak.cookie)


def _treat(snapshot: Snapshot, leak: Leak, *, yes: bool, destroy: bool) -> Result:
    if refusal := _refusal(leak, destroy=destroy):
        return Result(leak, "refused", refusal)
    return _end(snapshot, leak) if yes else Result(leak, "would end", "--yes does it")


def _refusal(leak: Leak, *, destroy: bool) -> str:
    if leak.state == "CLOSE":
        return "already over; only its owner can close the descriptor"
    if leak.cookie is None:
        return "this system tells no cookie to know it by; see sockguard doctor"
    if leak.cause is Cause.NOT_ACCEPTED and not destroy:
        return "never accepted, so there is no descriptor to act on; --destroy resets it"
    return ""


def _end(snapshot: Snapshot, leak: Leak) -> Result:
    try:
        return Result(leak, "ended", _act(snapshot, leak))
    except NotTheSame as finding:
        return Result(leak, "gone", str(finding))
    except StillAlive as finding:
        return Result(leak, "refused", str(finding))
    except (OSError, SockguardError) as error:
        return Result(leak, "failed", getattr(error, "strerror", None) or str(error))


def _act(snapshot: Snapshot, leak: Leak) -> str:
    """Ends it, and says by what means."""
    owner = leak.owner
    if owner is None:
        raise NotTheSame("its owner is not known")
    if leak.fd is None:
        destroy_unaccepted(leak.connection, owner)
        return "reset, its place in the queue is freed when the owner accepts"
    shut_down(leak.connection, owner, started=_started(snapshot, owner))
    return "FIN sent"


def _started(snapshot: Snapshot, owner: Holder) -> int | None:
    process = snapshot.processes.get(owner.pid)
    return process.started if process else None


def _line(result: Result) -> str:
    leak, outcome, why = result
    descriptor = "not accepted" if leak.fd is None else f"fd {leak.fd}"
    age = "age unknown" if leak.age_seconds is None else f"{leak.age_seconds:.0f} s"
    ends = f"{leak.local} <- {leak.remote or '(not told)'}"
    return f"{outcome}: pid {leak.pid} {descriptor} {ends} {age} {leak.cause.value}: {why}"


def _conclude(snapshot: Snapshot, results: list[Result], *, as_json: bool, yes: bool) -> None:
    if as_json:
        rows = [{**leak_as_dict(leak), "outcome": outcome, "why": why} for leak, outcome, why in results]
        print(json.dumps({"schema": 1, "at": timestamp(snapshot.at), "acted": yes, "results": rows}))
        return
    if not results:
        print("Nothing to end: no leak is that old.")
    elif not yes:
        print("Dry run: nothing was done.")
    if any(outcome in ("ended", "would end") and leak.fd is not None for leak, outcome, _ in results):
        print(REMAINS)
