"""A client process of the differential test: plays scripts against a bare and a guarded server, at the same time.

A `Job` is one line of JSON on standard input, a `Take` for each connection a line on standard output.
"""

import asyncio
import contextlib
import ipaddress
import itertools
import json
import socket
import struct
import sys
from collections.abc import Iterator
from typing import NamedTuple

from differential.script import (
    MAX_VISITS,
    Await,
    Pause,
    Script,
    Send,
    Tally,
    Visit,
    expected,
    make_late,
    make_patient,
    make_script,
)

__all__ = ["SIDES", "Job", "Take"]

SIDES = ("bare", "guarded")
IP_BIND_ADDRESS_NO_PORT = 24
"""Leaves the choice of the port to connect(), which can then reuse one for another peer. [ip(7), Linux 4.2]"""
SLOW_BUFFER, SLOW_PIECE, SLOW_PAUSE = 65_536, 32_768, 0.005
"""How a slow client reads: bytes of kernel buffer, bytes at a time, seconds between."""


class Job(NamedTuple):
    """What a player has to do."""

    ports: dict[str, dict[str, dict[str, int]]]
    """By side, kind of server and service."""
    seed: int
    first: int
    step: int
    """It plays the scripts first, first + step, first + 2 step ..."""
    connections: int
    """It begins no more scripts after so many on each side."""
    concurrency: int
    patient: int
    """So many of the scripts take a minute each, and are played beside the others."""
    late: float
    """Not 0: all answers come so many seconds late, and to half-closed clients."""
    grace: float
    """Seconds that a visit may take longer than its script says, on a busy machine; then it counts as hung."""


class Take(NamedTuple):
    """One connection as it was to be and as its client saw it, on each side."""

    index: int
    kind: str
    address: str
    expected_client: str
    expected_server: str
    bare: str
    guarded: str


class Client:
    """The client's end of one visit."""

    def __init__(self, visit: Visit, sock: socket.socket) -> None:
        self._visit, self._sock = visit, sock
        self._loop = asyncio.get_running_loop()
        self._marks = [step.received for step in visit.steps if isinstance(step, Await)]
        self._passed = asyncio.Event()
        self._has_ended = False
        self.tally = Tally()

    async def play(self) -> None:
        """Plays the visit, up to the point where only the end is left."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._send())
            try:
                await self._receive()
            except OSError:
                self.tally.mark("reset")
            self._has_ended = True
            self._passed.set()

    async def _send(self) -> None:
        try:
            for step in self._visit.steps:
                if isinstance(step, Send):
                    await self._loop.sock_sendall(self._sock, step.data)
                elif isinstance(step, Pause):
                    await asyncio.sleep(step.seconds)
                else:
                    await self._wait_for(step.received)
            if self._visit.end == "drain":
                self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            self.tally.mark("unsent")

    async def _wait_for(self, count: int) -> None:
        while self.tally.count < count and not self._has_ended:
            self._passed.clear()
            await self._passed.wait()

    async def _receive(self) -> None:
        self._take(b"")
        until_end = self._visit.end in ("drain", "read")
        size = SLOW_PIECE if self._visit.is_slow else 65536
        while until_end or self.tally.count < self._visit.due:
            data = await self._loop.sock_recv(self._sock, size)
            if not data:
                self.tally.mark("eof")
                return
            self._take(data)
            if self._visit.is_slow:
                await asyncio.sleep(SLOW_PAUSE)

    def _take(self, data: bytes) -> None:
        while self._marks_left() and self._marks_left()[0] <= self.tally.count + len(data):
            head = self._marks_left()[0] - self.tally.count
            self.tally.add(data[:head])
            data = data[head:]
            self.tally.mark("await")
        self.tally.add(data)
        self._passed.set()

    def _marks_left(self) -> list[int]:
        return self._marks[len(self.tally.marks) :]

    async def leave(self) -> None:
        """Ends the connection in the way that the script says."""
        if self._visit.end == "abandon":
            await self._until_readable()
        if self._visit.end == "reset":
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._sock.close()

    async def _until_readable(self) -> None:
        readable = self._loop.create_future()
        self._loop.add_reader(self._sock, lambda: readable.done() or readable.set_result(None))
        try:
            await readable
        finally:
            self._loop.remove_reader(self._sock)


async def _play(visit: Visit, address: str, port: int, patience: float) -> str:
    with socket.socket() as sock:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
        if visit.is_slow:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SLOW_BUFFER)
        sock.bind((address, 0))
        client = Client(visit, sock)
        try:
            async with asyncio.timeout(patience):
                await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
                await client.play()
                await client.leave()
        except TimeoutError:
            client.tally.mark("hung")
    return str(client.tally)


async def _play_script(script: Script, job: Job) -> None:
    for n_visit, visit in enumerate(script.visits):
        address = str(ipaddress.IPv4Address(0x7F010000 + script.index * MAX_VISITS + n_visit))
        right = expected(visit)
        ports = [job.ports[side][script.kind][visit.service] for side in SIDES]
        seen = await asyncio.gather(*(_play(visit, address, port, right.patience + job.grace) for port in ports))
        take = Take(script.index, script.kind, address, right.client, right.server, *seen)
        sys.stdout.write(json.dumps(take) + "\n")


def _scripts(job: Job) -> Iterator[Script]:
    """Writes the scripts of this job: first the patient ones, which take longest."""
    n_connections = 0
    for n in itertools.count():
        if n_connections >= job.connections:
            return
        index = job.first + n * job.step
        if job.late:
            script = make_late(job.seed, index, job.late)
        else:
            script = (make_patient if n < job.patient else make_script)(job.seed, index)
        n_connections += len(script.visits)
        yield script


async def _play_all(job: Job) -> None:
    scripts = _scripts(job)

    async def play_some() -> None:
        for script in scripts:
            await _play_script(script, job)

    async with asyncio.TaskGroup() as group:
        for script in itertools.islice(scripts, job.patient):
            group.create_task(_play_script(script, job))
        for _ in range(job.concurrency):
            group.create_task(play_some())


def main() -> None:
    """Plays one job."""
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_play_all(Job(*json.loads(sys.stdin.readline()))))


if __name__ == "__main__":
    main()
