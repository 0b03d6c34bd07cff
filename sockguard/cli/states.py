"""`sockguard states`: how many connections are in which state, at which listener, to which peer."""

import json
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

import click

from sockguard._core.facts import Snapshot, SocketFacts, TcpState
from sockguard._core.listeners import Listeners
from sockguard._kernel.inet_diag import ALL_STATES
from sockguard._kernel.linux import look_at_processes
from sockguard.cli.options import chosen_pids, json_option, parse_states, process_options
from sockguard.cli.report import exit_status, tell_unseen, was_seen
from sockguard.outputs.json import timestamp

__all__ = ["Census", "states"]

MEANING = {
    "ESTABLISHED": "open",
    "SYN_SENT": "we connect, no answer yet",
    "SYN_RECV": "a client connects",
    "FIN_WAIT1": "we closed first; our FIN is not acknowledged",
    "FIN_WAIT2": "we closed first; the peer has not closed (its CLOSE_WAIT)",
    "TIME_WAIT": "we closed first; over, kept for late packets, harmless",
    "CLOSE": "dead descriptor: over, but not closed",
    "CLOSE_WAIT": "the peer closed first; we have not closed",
    "LAST_ACK": "the peer closed first, then we; our FIN is not acknowledged",
    "LISTEN": "waits for connections",
    "CLOSING": "both closed at the same time",
}
WE_CLOSED_FIRST = frozenset({TcpState.FIN_WAIT1, TcpState.FIN_WAIT2, TcpState.TIME_WAIT})
PEER_CLOSED_FIRST = frozenset({TcpState.CLOSE_WAIT, TcpState.LAST_ACK})
ENDING = WE_CLOSED_FIRST | {TcpState.LAST_ACK, TcpState.CLOSING}
"""States in which a connection without a descriptor has been closed, not only not accepted yet."""
TOP = 10


class Census(NamedTuple):
    """The connections of some processes, or of the host, counted."""

    states: Counter[str]
    we_closed_first: int
    peer_closed_first: int
    orphans: Counter[str]
    """Of those that no process holds any more: what the kernel still finishes for us."""
    by_listener: dict[str, Counter[str]]
    by_peer: dict[str, Counter[str]]
    """By remote host for what clients opened, by host and port for what we opened."""


@click.command()
@process_options
@click.option(
    "--state",
    "wanted",
    multiple=True,
    callback=parse_states,
    metavar="NAME",
    help="Count only this state; may be given again.",
)
@json_option
def states(pids: tuple[int, ...], everything: bool, wanted: frozenset[int], as_json: bool) -> int:
    """Counts TCP connections by state, by listener and by peer, and tells who closed first.

    Exit status: 0, or 2 if it could not look.
    """
    chosen = chosen_pids(pids, everything=everything)
    snapshot = look_at_processes(chosen, states=ALL_STATES, find_owners=False)
    tell_unseen(snapshot)
    if chosen and not was_seen(snapshot, chosen):
        return exit_status(snapshot, [])
    census = take_census(_selected(snapshot, wanted, only_held=chosen is not None), Listeners(snapshot.sockets))
    if as_json:
        print(json.dumps(_as_dict(snapshot.at, census)))
    else:
        _print_census(census)
    return exit_status(snapshot, [])


def _selected(snapshot: Snapshot, wanted: frozenset[int], *, only_held: bool) -> list[SocketFacts]:
    held = {inode for process in snapshot.processes.values() for inode in process.sockets}
    queued_at = Listeners(s for s in snapshot.sockets if s.inode in held)
    return [
        facts
        for facts in snapshot.sockets
        if (not wanted or facts.state in wanted)
        and (not only_held or facts.inode in held or (facts.inode == 0 and _is_queued(facts, queued_at)))
    ]


def _is_queued(facts: SocketFacts, listeners: Listeners) -> bool:
    """Tells whether a connection waits to be accepted here; orphans have no inode either."""
    return facts.state in (TcpState.ESTABLISHED, TcpState.CLOSE_WAIT) and bool(listeners.of(facts))


def take_census(sockets: Iterable[SocketFacts], listeners: Listeners) -> Census:
    """Counts these sockets; a listener counts as a state, not as a peer."""
    census = Census(Counter(), 0, 0, Counter(), {}, {})
    we_first = peer_first = 0
    for facts in sockets:
        name = facts.state_name
        census.states[name] += 1
        we_first += facts.state in WE_CLOSED_FIRST
        peer_first += facts.state in PEER_CLOSED_FIRST
        if facts.state == TcpState.LISTEN or facts.remote is None:
            continue
        if facts.inode == 0 and facts.state in ENDING:
            census.orphans[name] += 1
        came_through = listeners.of(facts)
        if came_through:
            census.by_listener.setdefault(str(came_through[0].local), Counter())[name] += 1
        peer = facts.remote.unmapped
        census.by_peer.setdefault(peer.host if came_through else str(peer), Counter())[name] += 1
    return census._replace(we_closed_first=we_first, peer_closed_first=peer_first)


def _as_dict(at: float, census: Census) -> dict[str, object]:
    return {
        "schema": 1,
        "at": timestamp(at),
        "states": census.states,
        "closed_first": {"we": census.we_closed_first, "peer": census.peer_closed_first},
        "orphans": census.orphans,
        "listeners": [{"local": local, "states": counts} for local, counts in census.by_listener.items()],
        "peers": [{"remote": remote, "states": counts} for remote, counts in census.by_peer.items()],
    }


def _print_census(census: Census) -> None:
    from sockguard.cli.render import Column, make_console, make_table  # noqa: PLC0415 - rich takes 60 ms to import

    console = make_console()
    console.print(
        make_table(
            [Column("COUNT", "right"), Column("STATE", style="bold"), Column("MEANING", may_fold=True)],
            [(str(count), state, MEANING.get(state, "")) for state, count in census.states.most_common()],
        )
    )
    console.print(f"\nclosed first: we {census.we_closed_first}, the peer {census.peer_closed_first}")
    if census.orphans:
        counts = ", ".join(f"{state} {count}" for state, count in census.orphans.most_common())
        console.print(f"held by no process any more: {counts}")
    for title, groups in (("LISTENER", census.by_listener), ("PEER", census.by_peer)):
        if groups:
            console.print()
            console.print(
                make_table([Column("COUNT", "right"), Column(title), Column("STATES", may_fold=True)], _top(groups))
            )
        if len(groups) > TOP:
            console.print(f"       ... and {len(groups) - TOP} more (--json lists all)")


def _top(groups: dict[str, Counter[str]]) -> list[tuple[str, str, str]]:
    largest = sorted(groups.items(), key=lambda group: -group[1].total())[:TOP]
    return [(str(c.total()), name, ", ".join(f"{s} {n}" for s, n in c.most_common())) for name, c in largest]
