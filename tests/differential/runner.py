"""The differential test: what clients and servers see must be the same with the guard and without.

Servers of four kinds are started twice, bare and under `python -m sockguard run`; clients play
the same scripts against both at once. Each connection is compared with the one right
transcript, which is worked out from the script without any network.
"""

import concurrent.futures
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from differential.player import SIDES, Job, Take
from differential.script import KINDS

__all__ = ["Difference", "Outcome", "Plan", "play"]

HERE = Path(__file__).parent
PYTHON = (sys.executable, "-P")
SHOWN = 20
"""So many differences are kept with their transcripts, for the reader."""


class Plan(NamedTuple):
    """How much is to be played, and against what."""

    connections: int
    """At least so many on each side."""
    seed: int = 0
    players: int = 2
    concurrency: int = 100
    """So many scripts at a time, in each player."""
    patient: int = 0
    """So many scripts of a minute each, in all."""
    late: float = 0.0
    """Not 0: nothing but half-closed clients whose answers come so many seconds late."""
    grace: float = 120.0
    """Seconds that a connection may take longer than its script says; then it counts as hung."""
    guarded: Sequence[str] = ("-m", "sockguard", "run")
    """What comes between `python` and the program on the guarded side; nothing: bare against bare."""


class Difference(NamedTuple):
    """A connection that did not go as it should have."""

    side: str
    take: Take
    server: str
    """What the server of that side saw."""
    is_false_close: bool

    def __str__(self) -> str:
        take = self.take
        return (
            f"script {take.index}, {take.kind} server, client {take.address}, {self.side}:\n"
            f"  client expected {take.expected_client}\n         saw      {getattr(take, self.side)}\n"
            f"  server expected {take.expected_server}\n         saw      {self.server}"
        )


class Outcome(NamedTuple):
    """What a run showed. Differences on the bare side are bugs of this test."""

    connections: int
    false_closes: int
    different: int
    bare_wrong: int
    closed_by_guard: int
    """By its own log, which may be rate-limited."""
    n_guarded_servers: int
    """Servers in which sockguard was really there."""
    samples: list[Difference]
    errors: str
    """What the servers wrote to standard error."""

    def __str__(self) -> str:
        return f"CONNECTIONS {self.connections} FALSE_CLOSES {self.false_closes} DIFFERENT {self.different}"


class Server:
    """A server process of one kind and side."""

    def __init__(self, kind: str, prefix: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            [*PYTHON, *prefix, str(HERE / "server.py"), kind],
            env=_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the {kind} server did not start: {self._process.communicate()[1]}")
        self.ports: dict[str, int] = json.loads(line)

    def finish(self) -> tuple[dict[str, object], str]:
        """Lets the server end and gives what it saw, and its standard error."""
        said, errors = self._process.communicate(timeout=60)
        if self._process.returncode:
            errors += f"exit status {self._process.returncode}\n"
        return json.loads(said or "{}"), errors

    def kill(self) -> None:
        """Ends it, if it has not ended."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()


def play(plan: Plan) -> Outcome:
    """Plays what is planned, and compares."""
    with _servers(plan) as servers, concurrent.futures.ThreadPoolExecutor(plan.players) as pool:
        ports = {side: {kind: servers[side, kind].ports for kind in KINDS} for side in SIDES}
        takes = [take for some in pool.map(_run_player, _jobs(plan, ports)) for take in some]
        told = {key: server.finish() for key, server in servers.items()}
    return _compare(takes, {key: said for key, (said, _) in told.items()}, "".join(err for _, err in told.values()))


@contextlib.contextmanager
def _servers(plan: Plan) -> Iterator[dict[tuple[str, str], Server]]:
    with contextlib.ExitStack() as stack:
        servers = {}
        for side in SIDES:
            for kind in KINDS:
                server = servers[side, kind] = Server(kind, plan.guarded if side == "guarded" else ())
                stack.callback(server.kill)
        yield servers


def _jobs(plan: Plan, ports: dict[str, dict[str, dict[str, int]]]) -> Iterator[Job]:
    for first in range(plan.players):
        share, patient = (-(-number // plan.players) for number in (plan.connections, plan.patient))
        yield Job(
            ports, plan.seed, first, plan.players, share, plan.concurrency, patient, plan.late, plan.grace
        )  # fmt: skip


def _run_player(job: Job) -> list[Take]:
    done = subprocess.run(
        [*PYTHON, "-m", "differential.player"],
        env=_environment(),
        input=json.dumps(job),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return [Take(*json.loads(line)) for line in done.stdout.splitlines()]


def _environment() -> dict[str, str]:
    """Lets the processes import this folder, and gives them no settings of whoever runs them."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SOCKGUARD_")}
    folders = [str(HERE.parent), *filter(None, [kept.get("PYTHONPATH")])]
    return {**kept, "PYTHONPATH": os.pathsep.join(folders)}


def _compare(takes: list[Take], told: dict[tuple[str, str], dict[str, object]], errors: str) -> Outcome:
    found: dict[str, list[Difference]] = {side: [] for side in SIDES}
    for take in takes:
        for side in SIDES:
            server = told[side, take.kind].get("seen", {}).get(take.address, "nothing")
            if (getattr(take, side), server) != (take.expected_client, take.expected_server):
                found[side].append(Difference(side, take, server, _is_false_close(take, side, server)))
    guards = [told["guarded", kind] for kind in KINDS]
    return Outcome(
        connections=len(takes),
        false_closes=sum(difference.is_false_close for difference in found["guarded"]),
        different=len(found["guarded"]),
        bare_wrong=len(found["bare"]),
        closed_by_guard=sum(guard.get("closed_by_guard", 0) for guard in guards),
        n_guarded_servers=sum(bool(guard.get("guarded")) for guard in guards),
        samples=[*found["guarded"][:SHOWN], *found["bare"][:SHOWN]],
        errors=errors,
    )


def _is_false_close(take: Take, side: str, server: str) -> bool:
    """Tells whether either end saw an end that was not to come, or after another number of bytes."""
    if "hung" in getattr(take, side):
        return False  # it was the client that gave up
    seen, right = (_ends(transcript) for transcript in (getattr(take, side), take.expected_client))
    server_end = server.rpartition(":")[2]
    return not seen <= right or (
        server_end in ("eof", "reset", "error") and server_end != take.expected_server.rpartition(":")[2]
    )


def _ends(transcript: str) -> set[tuple[str, str]]:
    marks = (mark.split(":") for mark in transcript.split())
    return {(count, what) for count, _, what in marks if what in ("eof", "reset", "unsent")}
