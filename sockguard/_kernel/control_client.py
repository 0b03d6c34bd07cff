"""What do processes that run sockguard tell of their own connections? Asked through their control sockets.

A process is asked only about itself. Its socket is found by what the kernel says, not by
guessing names: it is a listening Unix socket among the descriptors of that process, under
the name that sockguard gives it. The file must belong to the user of the process or to
root, and who listens must be that user as well. What comes back is a stranger's: sizes and
types are checked, control characters are taken out, and it counts only for connections that the
process really holds.
"""

import _socket
import json
import os
import select
import socket
import stat
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from sockguard._core.facts import ProcessFacts, Snapshot
from sockguard._core.leaks import Known, Leak, Stall
from sockguard._kernel.control_path import NAME, read_peer

__all__ = ["ask", "ask_holders", "parse_answer", "parse_listeners"]

PATIENCE = 2.0
"""Seconds for all answers together: a guard looks for clients every 0.25 s, and sends in pieces."""
MAX_ANSWER = 1 << 20
"""Bytes; twice of what a server sends."""
MAX_LINES = 32
MAX_TEXT = 300
MAX_SECONDS = 1e9
ACCEPTS_CONNECTIONS = 0x10000
"""__SO_ACCEPTCON in the Flags of /proc/net/unix (include/linux/net.h)."""
SCHEMA = 1


def ask_holders(snapshot: Snapshot, leaks: Iterable[Leak]) -> dict[int, Known]:
    """Asks the processes that hold these leaks.

    Returns:
        Cookie -> what is known. Empty where none of them runs sockguard.
    """
    pids = {holder.pid for leak in leaks for holder in leak.holders}
    answers = ask([snapshot.processes[pid] for pid in sorted(pids & snapshot.processes.keys())])
    known: dict[int, Known] = {}
    for pid, answer in answers.items():
        held = snapshot.processes[pid].sockets
        own = {facts.cookie for facts in snapshot.sockets if facts.inode in held}
        known |= {cookie: told for cookie, told in answer.items() if cookie in own and cookie not in known}
    return known


def ask(processes: Collection[ProcessFacts], patience: float = PATIENCE) -> dict[int, dict[int, Known]]:
    """Asks processes, all at once: pid -> cookie -> what it tells. Who gives no proper answer in time is left out."""
    found = _find_sockets(processes)
    connected = {pid: sock for pid, path, uid in found if (sock := _connect(path, pid, uid))}
    try:
        answers = _read_all(connected, time.monotonic() + patience)
    finally:
        for sock in connected.values():
            sock.close()
    return {pid: parse_answer(answer) for pid, answer in answers.items()}


def parse_listeners(text: str) -> dict[int, str]:
    """Finds the paths of listening Unix sockets in /proc/net/unix, by inode."""
    found = {}
    for line in text.splitlines()[1:]:
        fields = line.split(maxsplit=7)
        if len(fields) == 8 and fields[7].startswith("/") and int(fields[3], 16) & ACCEPTS_CONNECTIONS:  # noqa: PLR2004
            found[int(fields[6])] = fields[7]
    return found


def _find_sockets(processes: Iterable[ProcessFacts]) -> Iterator[tuple[int, str, int]]:
    tables: dict[int, dict[int, str]] = {}
    for process in processes:
        if process.netns not in tables:
            tables[process.netns] = _read_listeners(process.pid)
        for inode in tables[process.netns].keys() & process.sockets.keys():
            path = tables[process.netns][inode]
            name = NAME.fullmatch(os.path.basename(path))
            if name and int(name["started"]) == process.started:
                yield process.pid, path, process.uid


def _read_listeners(pid: int, proc: str = "/proc") -> dict[int, str]:
    try:
        with open(f"{proc}/{pid}/net/unix", encoding="utf-8", errors="surrogateescape") as file:
            return parse_listeners(file.read())
    except OSError:
        return {}


def _connect(path: str, pid: int, uid: int) -> _socket.socket | None:
    """Connects, if file and listener are who they should be."""
    sock = _socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        facts = os.lstat(path)
        if stat.S_ISSOCK(facts.st_mode) and facts.st_uid in (uid, 0):
            sock.connect(path)
            peer = read_peer(sock)
            if peer.uid in (uid, 0) and peer.pid == pid:
                return sock
    except OSError:
        pass  # gone, in another mount namespace, not for us, or its queue is full
    sock.close()
    return None


def _read_all(connected: Mapping[int, _socket.socket], until: float) -> dict[int, bytes]:
    """Reads what comes, until all have closed their end or time is up."""
    poller = select.poll()
    pids = {sock.fileno(): pid for pid, sock in connected.items()}
    for fd in pids:
        poller.register(fd, select.POLLIN)
    answers = dict.fromkeys(pids.values(), b"")
    while pids and (left := until - time.monotonic()) > 0:
        for fd, _ in poller.poll(left * 1000):
            pid = pids[fd]
            part = _read_some(connected[pid])
            answers[pid] += part
            if not part or len(answers[pid]) > MAX_ANSWER:
                poller.unregister(fd)
                del pids[fd]
    return answers


def _read_some(sock: _socket.socket) -> bytes:
    try:
        return sock.recv(1 << 16)
    except OSError:
        return b""


def parse_answer(raw: bytes) -> dict[int, Known]:
    """Decodes the answer of a process, cookie -> what is known; leaves out whatever has not the right form."""
    answer = _parse_json(raw)
    if answer.get("schema") != SCHEMA:
        return {}
    stalls = {
        thread: Stall(seconds, _lines(entry.get("where")) or ())
        for entry in _objects(answer.get("stalled"))
        if (seconds := _seconds(entry.get("seconds"))) is not None and (thread := _number(entry.get("thread")))
    }
    return {
        cookie: _known(entry, stalls)
        for entry in _objects(answer.get("connections"))
        if (cookie := _number(entry.get("cookie")))
    }


def _parse_json(raw: bytes) -> dict[str, Any]:
    if len(raw) > MAX_ANSWER or not raw.endswith(b"\n"):
        return {}
    try:
        answer = json.loads(raw)
    except (ValueError, RecursionError):
        return {}
    return answer if isinstance(answer, dict) else {}


def _known(entry: Mapping[str, object], stalls: Mapping[int, Stall]) -> Known:
    return Known(
        created_at=_lines(entry.get("created_at")),
        held_by=_lines(entry.get("held_by")),
        ended_by_guard=entry.get("ended_by_guard") is True,
        stalled=stalls.get(_number(entry.get("thread"))),
        owner=_text(entry.get("owner")),
        reason=_text(entry.get("reason")),
    )


def _objects(value: object) -> list[dict[str, object]]:
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


def _lines(value: object) -> tuple[str, ...] | None:
    if not isinstance(value, list):
        return None
    return tuple(text for line in value[:MAX_LINES] if (text := _text(line)))


def _text(value: object) -> str | None:
    if not isinstance(value, str) or not value:
        return None
    return "".join(character if character.isprintable() else "?" for character in value[:MAX_TEXT])


def _number(value: object) -> int:
    """Takes a positive whole number; 0 stands for anything else."""
    return value if type(value) is int and 0 < value < 1 << 64 else 0


def _seconds(value: object) -> float | None:
    is_number = type(value) in (int, float)
    return float(value) if is_number and 0 <= value < MAX_SECONDS else None  # type: ignore[arg-type, operator]
