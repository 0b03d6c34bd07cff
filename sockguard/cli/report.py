"""`sockguard report`: who leaks, since when, why, and what to do."""

import json
import sys
import time
from collections.abc import Collection

import click

from sockguard._core.facts import LEAK_STATES, Snapshot, TcpState
from sockguard._core.leaks import LEAK_AFTER, Cause, Leak, find_leaks
from sockguard._core.two_looks import keep_still
from sockguard._kernel.control_client import ask_holders
from sockguard._kernel.linux import look_at_processes
from sockguard.cli.options import chosen_pids, json_option, parse_states, process_options, span_of_time
from sockguard.outputs.json import report_as_dict

__all__ = ["exit_status", "look_until_judged", "report", "tell_unseen", "was_seen"]

SHOWN_PER_PROCESS = 20


@click.command()
@process_options
@click.option(
    "--min-age",
    type=span_of_time,
    default=LEAK_AFTER,
    show_default=True,
    metavar="S",
    help="Seconds without progress from which on a connection counts as leaked.",
)
@click.option(
    "--state",
    "states",
    multiple=True,
    callback=parse_states,
    metavar="NAME",
    help="Only leaks in this state: CLOSE_WAIT, or CLOSE of dead descriptors.",
)
@click.option(
    "--wait",
    "-w",
    type=span_of_time,
    metavar="S",
    help="Look twice, S seconds apart, and leave out what moves. By default only where the kernel tells no age.",
)
@click.option(
    "--limit",
    type=click.IntRange(min=0),
    default=SHOWN_PER_PROCESS,
    show_default=True,
    metavar="N",
    help="Rows shown of each process, the oldest first; 0 for all.",
)
@json_option
def report(
    pids: tuple[int, ...],
    everything: bool,
    min_age: float,
    states: frozenset[int],
    wait: float | None,
    limit: int,
    as_json: bool,
) -> int:
    """Names the leaked TCP connections of processes that run now, in any language.

    It needs no cooperation of theirs, and changes nothing. Processes that run sockguard
    also tell where a connection was opened, and who holds it. Exit status: 0 no leaks
    (or only such as a guard has ended), 1 leaks, 2 could not look.
    """
    if strange := states - LEAK_STATES:
        names = ", ".join(TcpState(state).name for state in strange)
        msg = (
            f"--state {names}: a leak is in CLOSE_WAIT or CLOSE; for other states see: sockguard states --state {names}"
        )
        raise click.UsageError(msg)
    chosen = chosen_pids(pids, everything=everything)
    snapshot = look_until_judged(chosen, min_age, wait)
    leaks = [leak for leak in _judge(snapshot, min_age, chosen) if leak.connection.state in (states or LEAK_STATES)]
    status = exit_status(snapshot, leaks)
    tell_unseen(snapshot)
    if chosen and not was_seen(snapshot, chosen):
        return status
    if as_json:
        print(json.dumps(report_as_dict(snapshot, leaks)))
    else:
        from sockguard.cli.report_text import print_report  # noqa: PLC0415 - rich takes 60 ms to import

        print_report(snapshot, leaks, min_age=min_age, limit=limit)
    return status


def look_until_judged(pids: Collection[int] | None, min_age: float, wait: float | None) -> Snapshot:
    """Looks once, or twice where asked to or where an age cannot be had otherwise.

    Args:
        wait: Seconds between two looks, 0 for one look; None leaves it to what is found.
    """
    started = time.monotonic()
    first = look_at_processes(pids)
    if wait is None:
        leaks = find_leaks(first, min_age=min_age, pids=pids)
        if any(_has_no_age(leak) for leak in leaks):
            leaks = _judge(first, min_age, pids)
        n_ageless = sum(_has_no_age(leak) for leak in leaks)
        wait = min_age if n_ageless else 0
        if wait:
            who = "1 connection tells" if n_ageless == 1 else f"{n_ageless} connections tell"
            hint = f"{who} no age here: looking again in {wait:g} s (-w 0 lists them at once)"
            print(f"sockguard: {hint}", file=sys.stderr)
    if not wait:
        return first
    time.sleep(wait)
    return keep_still(first, look_at_processes(pids), time.monotonic() - started)


def _judge(snapshot: Snapshot, min_age: float, pids: Collection[int] | None) -> list[Leak]:
    """Finds the leaks, with what the processes themselves tell of them."""
    leaks = find_leaks(snapshot, min_age=min_age, pids=pids)
    known = ask_holders(snapshot, leaks)
    return find_leaks(snapshot, min_age=min_age, pids=pids, known=known) if known else leaks


def _has_no_age(leak: Leak) -> bool:
    return leak.age_seconds is None or leak.cause is Cause.DEAD_FD


def was_seen(snapshot: Snapshot, chosen: Collection[int]) -> bool:
    """Tells whether any of the processes that were asked for could be looked at."""
    unseen = {unseen.pid for unseen in snapshot.unseen if unseen.fatal}
    return any(pid not in unseen for pid in chosen)


def exit_status(snapshot: Snapshot, leaks: Collection[Leak]) -> int:
    """Chooses the exit status: leaks go before not having seen everything that was asked for.

    What a guard has ended is no leak any more: only a descriptor is left, and the guard's own log says so.
    """
    if any(leak.cause is not Cause.ENDED_BY_GUARD for leak in leaks):
        return 1
    return 2 if any(unseen.fatal for unseen in snapshot.unseen) else 0


def tell_unseen(snapshot: Snapshot) -> None:
    """Says on stderr what could not be looked at, and what to do about it."""
    for unseen in snapshot.unseen:
        prefix = "" if unseen.fatal else "not seen: "
        print(f"sockguard: {prefix}{unseen.what}; {unseen.remedy}", file=sys.stderr)
