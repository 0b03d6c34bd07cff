"""`sockguard demo`: a real leaking server is caught and healed, in a few seconds.

Nothing is staged: the server is a process of its own, the clients are real connections,
and report and reap are the commands that anybody would type.
"""

import inspect
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import click

from sockguard._core.facts import Snapshot, TcpState
from sockguard._kernel.linux import look_at_processes
from sockguard.cli import demo_server
from sockguard.cli.render import make_console

__all__ = ["demo"]

N_CLIENTS = 5
HANG_UP_PATIENCE = 5.0
LEAK_AGE = "1"


@click.command()
def demo() -> int:
    """Starts a leaking server on loopback, reports its leaks, reaps them, and ends it."""
    with _leaking_server() as (server, port):
        _say(f"# A server with a bug listens on 127.0.0.1:{port}, pid {server.pid}. Its handler:")
        click.echo(inspect.getsource(demo_server.serve_events))
        _say(f"# {N_CLIENTS} clients subscribe, are welcomed, and leave.")
        for _ in range(N_CLIENTS):
            _subscribe_and_leave(port)
        _wait_for_close_wait(server.pid)
        time.sleep(float(LEAK_AGE))
        _run("report", "--pid", str(server.pid), "--min-age", LEAK_AGE)
        _say("# No restart needed: end the connections from outside.")
        _run("reap", "--pid", str(server.pid), "--older-than", LEAK_AGE, "--yes")
        _say("# For TCP they are over; only the program itself can close its descriptors:")
        _run("states", "--pid", str(server.pid))
    return 0


@contextmanager
def _leaking_server() -> Iterator[tuple[subprocess.Popen[str], int]]:
    command = [sys.executable, demo_server.__file__]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None  # noqa: S101 - it was asked for
            yield server, int(server.stdout.readline())
        finally:
            server.kill()


def _subscribe_and_leave(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(b"events\n")
        client.recv(100)


def _wait_for_close_wait(pid: int) -> None:
    give_up_at = time.monotonic() + HANG_UP_PATIENCE
    while _count_close_wait(look_at_processes([pid], find_owners=False)) < N_CLIENTS and time.monotonic() < give_up_at:
        time.sleep(0.05)


def _count_close_wait(snapshot: Snapshot) -> int:
    return sum(s.state == TcpState.CLOSE_WAIT and s.inode in snapshot.holders for s in snapshot.sockets)


def _say(text: str, style: str = "cyan") -> None:
    make_console().print(f"\n{text}", style=style)


def _run(*arguments: str) -> None:
    _say(f"$ sockguard {' '.join(arguments)}", style="bold")
    subprocess.run([sys.executable, "-m", "sockguard", *arguments], check=False)
