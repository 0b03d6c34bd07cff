"""A snapshot and its leaks as plain objects for json.dumps: the `--json` of the commands.

The form is held by `docs/reference/report.schema.json`; keys may be added, none goes.
"""

from collections import Counter
from collections.abc import Collection, Iterable
from datetime import UTC, datetime

from sockguard._core.facts import Address, Holder, ProcessFacts, Snapshot, SocketFacts
from sockguard._core.leaks import Leak, Stall
from sockguard._core.listeners import Listener, listeners_held

__all__ = ["leak_as_dict", "report_as_dict", "timestamp"]

SCHEMA = 1


def report_as_dict(snapshot: Snapshot, leaks: Iterable[Leak]) -> dict[str, object]:
    """Gives the whole report: processes looked at, leaks, and what could not be seen."""
    by_inode = {facts.inode: facts for facts in snapshot.sockets if facts.inode}
    listeners = listeners_held(snapshot)
    return {
        "schema": SCHEMA,
        "at": timestamp(snapshot.at),
        "processes": [_process(process, by_inode, listeners) for process in snapshot.processes.values()],
        "leaks": [leak_as_dict(leak) for leak in leaks],
        "unseen": [{"pid": unseen.pid, "what": unseen.what, "remedy": unseen.remedy} for unseen in snapshot.unseen],
    }


def timestamp(at: float) -> str:
    """Writes seconds since the epoch as UTC, like 2001-02-03T04:05:06Z."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def leak_as_dict(leak: Leak) -> dict[str, object]:
    """Gives one leak under the names that scripts rely on."""
    return {
        "pid": leak.pid,
        "fd": leak.fd,
        "inode": leak.inode,
        "cookie": leak.cookie,
        "state": leak.state,
        "local": str(leak.local),
        "remote": _optional(leak.remote),
        "side": leak.side.value,
        "age_seconds": leak.age_seconds,
        "age_is": leak.age_is,
        "recv_queue": leak.recv_queue,
        "send_queue": leak.send_queue,
        "cause": leak.cause.value,
        "remedy": leak.remedy,
        "holders": [_holder(holder) for holder in leak.holders],
        "uid": leak.connection.uid,
        "netns": leak.connection.netns,
        "created_at": leak.created_at,
        "held_by": leak.held_by,
        "waits_at": leak.waits_at,
        "stalled": _stall(leak.stalled),
        "ended_because": leak.ended_because,
    }


def _stall(stall: Stall | None) -> dict[str, object] | None:
    return None if stall is None else {"seconds": stall.seconds, "where": stall.where}


def _optional(address: Address | None) -> str | None:
    return None if address is None else str(address)


def _holder(holder: Holder) -> dict[str, object]:
    return {"pid": holder.pid, "fd": holder.fd, "command": holder.command}


def _process(
    process: ProcessFacts, by_inode: dict[int, SocketFacts], listeners: Collection[Listener]
) -> dict[str, object]:
    states = Counter(by_inode[inode].state_name for inode in process.sockets if inode in by_inode)
    return {
        "pid": process.pid,
        "command": process.command,
        "uid": process.uid,
        "netns": process.netns,
        "fd_used": process.fd_used,
        "fd_limit": process.fd_limit,
        "states": dict(states),
        "listeners": [
            _listener(listener, process.sockets[listener.facts.inode][0])
            for listener in listeners
            if listener.facts.inode in process.sockets
        ],
    }


def _listener(listener: Listener, fd: int) -> dict[str, object]:
    return {
        "local": str(listener.facts.local),
        "fd": fd,
        "queued": listener.queued,
        "backlog": listener.backlog,
        "queued_close_wait": listener.queued_close_wait,
    }
