"""The leak report as text: for each process its budget, its queues, its leaks and the cures."""

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import groupby

from rich.console import Console
from rich.text import Text

from sockguard._core.facts import ProcessFacts, Snapshot, SocketFacts, TcpState
from sockguard._core.inference import age_of
from sockguard._core.leaks import Cause, Leak
from sockguard._core.listeners import Listener, listeners_held
from sockguard.cli.render import WIDE, Column, age_text, indented, make_console, make_table, plural, size_text
from sockguard.cli.report_known import told_by_process

__all__ = ["print_report"]

NARROW_COLUMNS = (
    Column("AGE", "right"),
    Column("FD", "right"),
    Column("LOCAL", may_fold=True),
    Column("PEER", may_fold=True),
    Column("UNREAD", "right"),
    Column("CAUSE", style="bold"),
)
WIDE_COLUMNS = (
    *NARROW_COLUMNS,
    Column("UNSENT", "right"),
    Column("SIDE"),
    Column("STATE"),
    Column("INODE", "right"),
    Column("COOKIE", "right"),
    Column("ALSO HELD BY (PID:FD)", may_fold=True),
)
CURE_COLUMNS = (Column("", style="bold"), Column("", may_fold=True))
OWNER_UNKNOWN = "owner unknown (needs root or CAP_SYS_PTRACE)"
OWNER_NOWHERE = (
    "no process holds these (in transit between processes, in another PID namespace, "
    "held by io_uring or by the kernel itself)"
)


def print_report(snapshot: Snapshot, leaks: list[Leak], *, min_age: float, limit: int) -> None:
    """Prints the report.

    Args:
        min_age: What the leaks were judged by, to name it where there are none.
        limit: Rows per process at most; 0 for all.
    """
    console = make_console()
    if not leaks:
        console.print(_all_clear(snapshot, min_age))
        return
    listeners = listeners_held(snapshot)
    console.print(_headline(leaks))
    for pid, group in groupby(leaks, key=lambda leak: leak.pid):
        console.print()
        _print_process(console, snapshot, pid, list(group), listeners, limit)


def _headline(leaks: list[Leak]) -> Text:
    n_ended = sum(leak.cause is Cause.ENDED_BY_GUARD for leak in leaks)
    n_processes = len({leak.pid for leak in leaks if leak.pid is not None})
    where = f" in {plural(n_processes, 'process')}" if n_processes else ""
    ended = f"{plural(n_ended, 'connection')} ended by a guard whose descriptor is still open" if n_ended else ""
    if n_ended == len(leaks):
        return Text.assemble(("No leaks", "bold green"), f"{where}, but {ended}")
    text = Text(f"{plural(len(leaks) - n_ended, 'leaked connection')}{where}", style="bold red")
    return text.append(f", and {ended}", style="not bold default") if ended else text


def _all_clear(snapshot: Snapshot, min_age: float) -> Text:
    text = Text.assemble(("No leaks", "bold green"), f" in {plural(len(snapshot.processes), 'process')}: ")
    text.append(f"nothing that hung up has stood still for {min_age:g} s.")
    mine = {inode for process in snapshot.processes.values() for inode in process.sockets}
    for state, what in ((TcpState.CLOSE_WAIT, "connection in CLOSE_WAIT"), (TcpState.CLOSE, "dead descriptor")):
        ages = [age_of(s).seconds or 0.0 for s in snapshot.sockets if s.state == state and s.inode in mine]
        if ages:
            text.append(f"\nYounger: {plural(len(ages), what)}, for up to {age_text(max(ages))}.")
    return text


def _print_process(
    console: Console, snapshot: Snapshot, pid: int | None, leaks: list[Leak], listeners: list[Listener], limit: int
) -> None:
    process = snapshot.processes.get(pid) if pid is not None else None
    if process:
        console.print(_title(process), overflow="fold")
        for line in (_budget(process, snapshot.sockets), *_queues(process, listeners)):
            console.print(indented(line))
    else:
        console.print(Text(OWNER_NOWHERE if snapshot.owners_complete else OWNER_UNKNOWN, style="bold"))
    is_wide = console.width >= WIDE
    shown = leaks[:limit] if limit else leaks
    rows = [_row(leak, is_wide=is_wide) for leak in shown]
    columns = WIDE_COLUMNS if is_wide else NARROW_COLUMNS
    console.print(indented(make_table(columns, rows), above=1))
    if len(shown) < len(leaks):
        console.print(f"  ... and {len(leaks) - len(shown)} younger ones (--limit 0 shows all)")
    if told := list(told_by_process(leaks)):
        console.print(indented(make_table(CURE_COLUMNS, told), above=1))
    console.print(indented(make_table(CURE_COLUMNS, _cures(leaks)), above=1))


def _title(process: ProcessFacts) -> Text:
    return Text.assemble((f"pid {process.pid}", "bold"), "  ", process.command)


def _budget(process: ProcessFacts, sockets: Iterable[SocketFacts]) -> Text:
    states = Counter(s.state_name for s in sockets if s.inode in process.sockets)
    limit = "unlimited" if process.fd_limit is None else str(process.fd_limit)
    text = Text(f"descriptors {process.fd_used} of {limit}")
    if process.fd_limit and process.fd_used is not None:
        used = process.fd_used / process.fd_limit
        text.append(f" ({used:.0%})", style="bold red" if used >= 0.8 else "")  # noqa: PLR2004 - fd_limit_near
    for state, count in states.most_common():
        text.append(f"  {state} {count}", style="red" if state == "CLOSE_WAIT" else "dim")
    return text


def _queues(process: ProcessFacts, listeners: list[Listener]) -> Iterator[Text]:
    for listener in listeners:
        fds = process.sockets.get(listener.facts.inode)
        if fds and listener.queued:
            text = Text(f"listens on {listener.facts.local} (fd {fds[0]}): ")
            room = "" if listener.backlog is None else f" of {listener.backlog}"
            text.append(f"{listener.queued}{room} wait to be accepted", style="bold")
            text.append(f", {listener.queued_close_wait} of them hung up already")
            yield text


def _row(leak: Leak, *, is_wide: bool) -> list[str]:
    row = [
        age_text(leak.age_seconds, leak.age_is),
        "-" if leak.fd is None else str(leak.fd),
        str(leak.local.unmapped),
        "(not told)" if leak.remote is None else str(leak.remote.unmapped),
        size_text(leak.connection.unread),
        leak.cause.value,
    ]
    if is_wide:
        others = [f"{h.pid}:{h.fd}" for h in leak.holders if h != leak.owner]
        optional = ["-" if value is None else str(value) for value in (leak.inode, leak.cookie)]
        row += [size_text(leak.send_queue), leak.side.value, leak.state, *optional, " ".join(others)]
    return row


def _cures(leaks: list[Leak]) -> Iterator[tuple[str, str]]:
    for cause in Cause:
        count = sum(leak.cause is cause for leak in leaks)
        if count:
            yield f"{cause.value} x{count}", cause.remedy
    others: dict[str, set[int]] = {}
    for leak in leaks:
        for holder in leak.holders:
            if holder.pid != leak.pid:
                others.setdefault(holder.command, set()).add(holder.pid)
    for command, pids in others.items():
        yield "also held by", f"pid {', '.join(map(str, sorted(pids)))}  {command}"
