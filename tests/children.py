"""Child processes that do what they are told, line by line, and are always ended by their pid."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator, Sequence

__all__ = ["Child", "start_child"]

_OBEY = """
import os, socket, sys
for line in sys.stdin:
    try:
        exec(line)
        print("done", flush=True)
    except Exception as error:
        print(f"failed {error!r}", flush=True)
"""


class Child:
    """A Python process that runs one statement at a time; `ask` returns what it evaluates to."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self.pid = process.pid

    def do(self, statement: str) -> list[str]:
        """Runs a statement in the child and returns the lines that it printed."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(statement + "\n")
        self._process.stdin.flush()
        said: list[str] = []
        while (line := self._process.stdout.readline().rstrip("\n")) != "done":
            assert line and not line.startswith("failed"), line or "the child ended"
            said.append(line)
        return said

    def ask(self, expression: str) -> str:
        """Evaluates an expression in the child; its text comes back."""
        return "\n".join(self.do(f"print({expression}, flush=True)"))

    def end(self) -> None:
        """Kills the child and waits for it, so that its pid is gone."""
        self._process.kill()
        self._process.communicate()


@contextlib.contextmanager
def start_child(prefix: Sequence[str] = (), *, pass_fds: Sequence[int] = ()) -> Iterator[Child]:
    """Starts a child that obeys; `prefix` is a command that runs it (`unshare -n`)."""
    process = subprocess.Popen(
        [*prefix, sys.executable, "-c", _OBEY],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pass_fds=pass_fds,
        text=True,
    )
    child = Child(process)
    try:
        child.do("pass")  # by now it is past `prefix`
        yield child
    finally:
        child.end()
