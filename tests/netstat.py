"""What the kernel's own text tables say of a port: an opinion that owes nothing to sockguard."""

import contextlib
from typing import NamedTuple

from waiting import eventually

__all__ = ["CLOSE_WAIT", "ESTABLISHED", "FIN_WAIT2", "LISTEN", "Row", "rows", "wait_for"]

ESTABLISHED, FIN_WAIT2, CLOSE_WAIT, LISTEN = 1, 5, 8, 10


class Row(NamedTuple):
    """One line of /proc/PID/net/tcp or tcp6, as far as tests need it."""

    state: int
    local_port: int
    remote_port: int
    send_queue: int
    recv_queue: int
    inode: int


def rows(port: int, *, pid: int | str = "self") -> list[Row]:
    """Lists the sockets with this local port, in the network namespace of a process."""
    found = []
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(FileNotFoundError), open(f"/proc/{pid}/net/{table}", encoding="ascii") as file:
            found += [_parse(line) for line in file.readlines()[1:]]
    return [row for row in found if row.local_port == port]


def _parse(line: str) -> Row:
    _, local, remote, state, queues, _, _, _, _, inode, *_ = line.split()
    send, receive = queues.split(":")
    ports = (int(end.rpartition(":")[2], 16) for end in (local, remote))
    return Row(int(state, 16), *ports, int(send, 16), int(receive, 16), int(inode))


def wait_for(port: int, *, count: int = 1, pid: int | str = "self", **wanted: object) -> list[Row]:
    """Waits until so many sockets with this local port have these fields; `inode=True` stands for accepted."""

    def fits(row: Row) -> bool:
        return all(
            bool(row.inode) is value if name == "inode" else getattr(row, name) == value
            for name, value in wanted.items()
        )

    def found() -> tuple[list[Row]] | None:
        fitting = [row for row in rows(port, pid=pid) if fits(row)]
        return (fitting,) if len(fitting) == count else None

    return eventually(found, timeout=20)[0]
