"""The servers that the guard's benchmarks compare: started side by side, and stopped for certain.

A side is a way to start a program: bare, guarded by `sockguard run`, or with the time limits
that one would write by hand. All sides of a comparison are up at the same time, and idle while
it is another's turn.

Servers and clients share one CPU. On two, a virtual machine wakes the other one for each message:
seven of eight parts of a round trip were that, and it came in two speeds (measured: 12,000 round
trips per second, and on one CPU 54,000; the quartiles 15 % apart, and 2 %). The price is that the
client's time is in what is measured, which is why the server's CPU time is told beside it.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

__all__ = [
    "BARE",
    "GUARDED",
    "IDLE_THREAD",
    "SERVERS",
    "TIMER",
    "Server",
    "Side",
    "guarded_unless",
    "serving",
    "starting",
]

SERVERS = Path(__file__).parent / "servers"
PATIENCE = 20.0
"""Seconds in which a server must be ready."""
CPU = max(os.sched_getaffinity(0))
"""The last one: interrupts prefer the first."""


class Side(NamedTuple):
    """A way to start a program."""

    name: str
    prefix: tuple[str, ...] = ()
    """Words between the interpreter and the program."""
    words: tuple[str, ...] = ()
    """Words after the program."""


BARE = Side("bare")
GUARDED = "guarded"
"""The name of the side that `guarded_unless` makes."""
TIMER = Side("timer per read", (), ("--timer",))
IDLE_THREAD = Side("idle thread", (str(SERVERS / "beside_idle_thread.py"),))
"""What the guard would cost if its thread did nothing at all."""


def guarded_unless(*, against_itself: bool, timeout: float = 300) -> Side:
    """Gives the guarded side; or a bare one under its name, which shows what noise alone does."""
    return Side(GUARDED, () if against_itself else ("-m", "sockguard", "run", "--idle-timeout", f"{timeout:g}"))


class Server:
    """A running server, its port and what it has used."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.process = process
        self.port = port
        self.pid = process.pid

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        return ("127.0.0.1", self.port)

    def cpu_seconds(self) -> float:
        """Tells the CPU time that it and its living children have used, to the nanosecond."""
        return sum(time.clock_gettime((~pid << 3) | 2) for pid in self.pids())  # clock_getcpuclockid(3) makes it thus

    def pids(self) -> list[int]:
        """Lists it and its children: a master and its workers."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text(encoding="ascii")
        return [self.pid, *map(int, children.split())]

    def threads(self) -> set[int]:
        """Lists its threads but the first. A server that nobody has called yet has none but the guard's."""
        return {int(tid) for tid in os.listdir(f"/proc/{self.pid}/task")} - {self.pid}

    def ask(self, line: str) -> str:
        """Sends a line to its standard input and reads one of its output."""
        assert self.process.stdin and self.process.stdout  # noqa: PT018 - for the type checker: both are pipes
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline()


@contextlib.contextmanager
def serving(side: Side, script: str, *words: str) -> Iterator[Server]:
    """Runs one of our servers, which prints its port when it is ready."""
    command = [sys.executable, *side.prefix, str(SERVERS / script), *words, *side.words]
    with _running(command) as (process, errors):
        assert process.stdout
        first_line = process.stdout.readline()
        if not first_line.strip().isdigit():
            raise RuntimeError(_complaint(command, errors))
        yield Server(process, int(first_line))


@contextlib.contextmanager
def starting(side: Side, *words: str) -> Iterator[Server]:
    """Runs `python -m ...`, which is told its port in place of the word PORT, until it takes connections."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, *side.prefix, "-m", *(word.replace("PORT", str(port)) for word in words)]
    with _running(command) as (process, errors):
        deadline = time.monotonic() + PATIENCE
        while process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.05)
        else:
            raise RuntimeError(_complaint(command, errors))
        yield Server(process, port)


@contextlib.contextmanager
def _running(command: list[str]) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """Runs a command on this process's CPU; ends it with its children, which are in its group."""
    pipe = subprocess.PIPE
    with tempfile.NamedTemporaryFile(prefix="bench-errors-") as errors:
        _share_one_cpu()
        process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=errors, text=True, process_group=0)
        try:
            with process:
                try:
                    yield process, Path(errors.name)
                finally:
                    os.killpg(process.pid, signal.SIGKILL)
        finally:
            _show_errors(Path(errors.name))


def _share_one_cpu() -> None:
    """Binds this process, and the children to come, to a CPU on which being woken interrupts nobody.

    Otherwise each message might or might not interrupt the client that sends them, which made
    the CPU time of a message two to four times as noisy. sched(7), SCHED_BATCH.
    """
    os.sched_setaffinity(0, {CPU})
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def _complaint(command: list[str], errors: Path) -> str:
    return f"not ready: {' '.join(command)}\n{errors.read_text(encoding='utf-8')}"


def _show_errors(errors: Path) -> None:
    """Prints what a server said to standard error, shortened: a guard that complains must not go unseen."""
    lines = [line for line in errors.read_text(encoding="utf-8").splitlines() if " [INFO] " not in line]
    for line in lines[:5]:
        print(f"    server: {line}", file=sys.stderr)
    if len(lines) > 5:  # noqa: PLR2004 - as above
        print(f"    server: ... {len(lines) - 5} more lines", file=sys.stderr)
