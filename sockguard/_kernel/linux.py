"""One look at the machine: joins the doors of this room into a `Snapshot`.

A look never fails for a part of it: what cannot be read becomes an `Unseen`.
"""

import errno
import sys
from collections.abc import Collection, Iterable, Mapping

from sockguard._core.facts import LEAK_STATES, Holder, ProcessFacts, Snapshot, SocketFacts, TcpState, Unseen
from sockguard._core.listeners import Listeners
from sockguard._kernel.natives import system, wall_clock
from sockguard._kernel.own_fds import read_all_sockets, read_hung_up
from sockguard._kernel.proc_pid import (
    are_others_hidden,
    find_holders,
    list_pids,
    read_command,
    read_netns,
    read_parents,
    read_process,
    read_protocol,
    refuse_thread,
)
from sockguard._kernel.tables import (
    BORROW_RIGHTS,
    OWNED_STATES,
    SICK_STATES,
    Table,
    read_table,
    read_unlisted,
    with_infos,
)
from sockguard.errors import InternalError, KernelUnavailable

__all__ = ["look_at_processes", "look_at_self", "require_linux"]

OWNER_RIGHTS = "run it as root, as the owner of the process, or with CAP_SYS_PTRACE"

COMMAND_WIDTH = 60
CLOSED_MEANWHILE = (errno.ENOENT, errno.ESRCH, errno.EBADF, errno.ENOTSOCK, errno.EOPNOTSUPP, errno.ENODATA)
"""It is gone, or no socket any more."""

HolderMap = dict[int, tuple[Holder, ...]]


def require_linux(what: str) -> None:
    """Refuses to go on where there is no Linux kernel to ask.

    Raises:
        KernelUnavailable: This is another system.
    """
    if sys.platform != "linux":
        raise KernelUnavailable(what, f"{sys.platform} is not Linux", "Run it on the Linux host of the server.")


def look_at_self() -> Snapshot:
    """Looks at the leaks of this very process; no Python runs for its healthy sockets.

    Other processes that hold the same connections are not searched for.

    Raises:
        KernelUnavailable: Not Linux.
    """
    require_linux("finding leaks")
    pid, netns = system.getpid(), read_netns()
    table = read_table(pid, netns, is_own=True)
    hung_up = read_hung_up()
    mine = hung_up | _read_stuck_listeners(table.sockets)
    command = read_command("self")
    holders = {inode: tuple([Holder(pid, fd, command) for fd in fds]) for inode, fds in mine.items()}
    unlisted = []
    for inode in hung_up.keys() - {s.inode for s in table.sockets}:
        try:
            facts = read_unlisted(holders[inode][0], inode, netns=netns)
        except (OSError, InternalError):
            continue  # closed by now, or a sandbox that tells next to nothing
        if facts:
            unlisted.append(facts)
    sockets = with_infos(table.sockets, holders, {}) + unlisted
    return Snapshot(wall_clock(), tuple(sockets), {}, holders, {}, tuple(table.unseen))


def _read_stuck_listeners(sockets: list[SocketFacts]) -> dict[int, list[int]]:
    """Lists those of our listeners that have hung-up connections in their queue, if there are any such."""
    queued = [s for s in sockets if s.inode == 0 and s.state == TcpState.CLOSE_WAIT]
    if not queued:
        return {}
    listeners = Listeners(sockets)
    wanted = {listener.inode for facts in queued for listener in listeners.of(facts)}
    return {inode: fds for inode, fds in read_all_sockets().items() if inode in wanted}


def look_at_processes(
    pids: Collection[int] | None = None, *, states: Collection[int] = OWNED_STATES, find_owners: bool = True
) -> Snapshot:
    """Looks at all TCP sockets and at these processes, or at every one.

    A process that vanishes meanwhile is left out; one of `pids` that cannot be looked at
    at all is told of in `Snapshot.unseen`, as `fatal`.

    Args:
        pids: None for all.
        states: Which sockets to list.
        find_owners: Search every other process for those who share a leaked connection.

    Raises:
        KernelUnavailable: Not Linux.
    """
    require_linux("looking at processes")
    processes, unseen, n_hidden = _read_processes(pids)
    if pids is None and are_others_hidden():
        unseen.append(Unseen(None, "the processes of other users (/proc is mounted with hidepid)", OWNER_RIGHTS))
        n_hidden += 1
    sockets: list[SocketFacts] = []
    own = read_netns()
    for netns, residents in _namespaces(processes, own, every=pids is None).items():
        table = _read_table_by_any(residents, netns, states, is_own=netns == own)
        sockets += table.sockets
        unseen += [u._replace(fatal=u.fatal and pids is not None) for u in table.unseen]
    unlisted, unlendable = _find_unlisted(processes, {s.inode for s in sockets})
    sockets += unlisted
    wanted = {s.inode for s in sockets if s.state in (*SICK_STATES, TcpState.CLOSE)}
    holders = _holders_among(processes, wanted)
    n_unreadable = n_hidden + sum(process.fd_used is None for process in processes.values())
    if find_owners and pids is not None:
        n_unreadable += _add_other_holders(holders, sockets, wanted, processes)
    if pids is None and n_unreadable:
        unseen.append(
            Unseen(None, f"the descriptors of {n_unreadable} of {len(processes) + n_hidden} processes", OWNER_RIGHTS)
        )
    return Snapshot(
        at=wall_clock(),
        sockets=tuple(with_infos(sockets, holders, processes)),
        processes=processes,
        holders=holders,
        parents=read_parents({holder.pid for held in holders.values() for holder in held}),
        unseen=(*unseen, *unlendable),
        owners_complete=not n_unreadable,
    )


def _read_processes(pids: Collection[int] | None) -> tuple[dict[int, ProcessFacts], list[Unseen], int]:
    """Reads the processes; also, what is to be said of those asked for, and how many are hidden."""
    processes: dict[int, ProcessFacts] = {}
    unseen: list[Unseen] = []
    n_hidden = 0
    for pid in list_pids() if pids is None else sorted(set(pids)):
        try:
            process = read_process(pid)
            if pids is not None:
                refuse_thread(pid)
        except (ProcessLookupError, PermissionError) as error:
            n_hidden += isinstance(error, PermissionError)  # /proc is mounted with hidepid=1
            if pids is not None:
                unseen.append(Unseen(pid, f"process {pid}: {error.strerror}", "check the pid", fatal=True))
            continue
        processes[pid] = process
        if process.fd_used is None and pids is not None:
            what = f"process {pid} ({process.command[:COMMAND_WIDTH]}): its descriptors may not be read"
            unseen.append(Unseen(pid, what, OWNER_RIGHTS, fatal=True))
    return processes, unseen, n_hidden


def _namespaces(processes: Mapping[int, ProcessFacts], own: int, *, every: bool) -> dict[int, list[int]]:
    """Lists the network namespaces to ask: inode -> the processes that live in it."""
    namespaces = {own: [system.getpid()]} if every else {}
    for process in processes.values():
        namespaces.setdefault(process.netns or own, []).append(process.pid)
    return namespaces


def _read_table_by_any(residents: Iterable[int], netns: int, states: Collection[int], *, is_own: bool) -> Table:
    """Reads a namespace's table by the first of its processes that still lives."""
    for pid in residents:
        try:
            return read_table(pid, netns, states, is_own=is_own)
        except ProcessLookupError:
            continue
    return Table([], [])


def _find_unlisted(processes: Mapping[int, ProcessFacts], listed: set[int]) -> tuple[list[SocketFacts], list[Unseen]]:
    """Looks at the held TCP sockets that no table lists; most have simply never connected."""
    found: dict[int, SocketFacts] = {}
    unseen: list[Unseen] = []
    for process in processes.values():
        n_refused = 0
        for inode in process.sockets.keys() - listed - found.keys():
            facts, is_refused = _look_at_unlisted(process, inode)
            n_refused += is_refused
            if facts:
                found[inode] = facts
        if n_refused:
            what = f"whether {n_refused} TCP descriptors of process {process.pid} that no table lists are dead"
            unseen.append(Unseen(process.pid, what, BORROW_RIGHTS))
    return list(found.values()), unseen


def _look_at_unlisted(process: ProcessFacts, inode: int) -> tuple[SocketFacts | None, bool]:
    """Looks at one; tells also whether that was refused, so that nothing can be said of it."""
    holder = Holder(process.pid, process.sockets[inode][0], process.command)
    try:
        if read_protocol(holder.pid, holder.fd) not in ("TCP", "TCPv6"):
            return None, False
        return read_unlisted(holder, inode, netns=process.netns, started=process.started), False
    except KernelUnavailable:
        return None, True
    except OSError as error:
        return None, error.errno not in CLOSED_MEANWHILE


def _holders_among(processes: Mapping[int, ProcessFacts], wanted: set[int]) -> HolderMap:
    holders: dict[int, list[Holder]] = {}
    for process in processes.values():
        for inode in wanted & process.sockets.keys():
            fds = process.sockets[inode]
            holders.setdefault(inode, []).extend(Holder(process.pid, fd, process.command) for fd in fds)
    return {inode: tuple(held) for inode, held in holders.items()}


def _add_other_holders(
    holders: HolderMap, sockets: list[SocketFacts], wanted: set[int], processes: Mapping[int, ProcessFacts]
) -> int:
    """Adds the holders outside `processes`, if these hold or once accepted any leak candidate.

    Returns:
        How many processes could not be asked.
    """
    queues = Listeners(s for s in sockets if s.inode in holders)
    is_sick = any(s.inode in holders or queues.of(s) for s in sockets if s.state in LEAK_STATES)
    if not is_sick:
        return 0
    found = find_holders(wanted, [pid for pid in list_pids() if pid not in processes])
    for inode, others in found.by_inode.items():
        holders[inode] = tuple(sorted((*holders.get(inode, ()), *others)))
    return found.n_unreadable
