"""Programs that are functions of a test file: each runs as a script of its own, bare or under `sockguard run`.

What a function uses of its module comes along: other functions, constants, imported modules.
"""

import contextlib
import inspect
import os
import subprocess
import sys
import tempfile
import types
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

__all__ = ["Ended", "Running", "running", "source_of"]

TELLER = """
import logging, sys
class Teller(logging.Handler):
    def emit(self, record):
        sys.stderr.write(f"{getattr(record, 'event_name', '?')}: {record.getMessage()}\\n")
logging.getLogger("sockguard").addHandler(Teller())
logging.getLogger("sockguard").setLevel("DEBUG")
"""
"""The beginning of each program: events go to standard error, by name."""

TIMEOUT = 60
"""Seconds in which any program must have ended."""


class Ended(NamedTuple):
    """How a program ended and what it said."""

    status: int
    out: str
    err: str


class Running:
    """A program that runs; what it printed last is read line by line."""

    def __init__(self, process: "subprocess.Popen[str]", errors: str) -> None:
        self._process, self._errors = process, errors
        self.pid = process.pid

    def line(self) -> str:
        """Waits for the next line that the program prints."""
        assert self._process.stdout
        return self._process.stdout.readline().rstrip("\n")

    def port(self) -> int:
        """Waits for a line that is a port."""
        line = self.line()
        assert line, f"the program ended: {self.finish()}"
        return int(line)

    def say(self, line: str) -> None:
        """Writes a line to the program's standard input."""
        assert self._process.stdin
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def ask(self, line: str) -> str:
        """Writes a line and waits for the one that the program prints."""
        self.say(line)
        return self.line()

    def signal(self, number: int) -> None:
        """Sends the program a signal."""
        self._process.send_signal(number)

    def finish(self) -> Ended:
        """Closes the program's standard input and waits until it has ended."""
        out, _ = self._process.communicate(timeout=TIMEOUT)
        return Ended(self._process.returncode, out, self.errors())

    def errors(self) -> str:
        """Tells what the program has written to standard error so far."""
        with open(self._errors, encoding="utf-8") as file:
            return file.read()


@contextlib.contextmanager
def running(
    program: Callable[[], None], options: Sequence[object] | None = None, *words: object, prefix: Sequence[str] = ()
) -> Iterator[Running]:
    """Starts a program; it is killed at the end, by its pid.

    Args:
        options: Those of `sockguard run`; None: it runs bare.
        words: Its own arguments.
        prefix: A command that runs it (`unshare --net`).
    """
    with tempfile.TemporaryDirectory() as folder:
        script, errors = os.path.join(folder, f"{program.__name__}.py"), os.path.join(folder, "stderr")
        with open(script, "w", encoding="utf-8") as file:
            file.write(source_of(program))
        guard = [] if options is None else ["-m", "sockguard", "run", *map(str, options)]
        with open(errors, "w", encoding="utf-8") as stderr:
            process = subprocess.Popen(
                [*prefix, sys.executable, "-P", *guard, script, *map(str, words)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )
        with process:
            try:
                yield Running(process, errors)
            finally:
                process.kill()


def source_of(program: Callable[[], None]) -> str:
    """Writes the script that calls this function: itself and all that it uses of its module."""
    parts: dict[str, str] = {}
    _collect(program, parts)
    imports = [part for part in parts.values() if part.startswith("import ")]
    rest = [part for part in parts.values() if not part.startswith("import ")]
    return "\n".join([TELLER, *sorted(imports), "", *rest, f"{program.__name__}()", ""])


def _collect(function: Callable[..., object], parts: dict[str, str]) -> None:
    names = _names_in(function.__code__)
    for name in sorted(names):
        value = function.__globals__.get(name)
        if name in parts or value is None:
            continue
        if isinstance(value, types.ModuleType):
            parts[name] = "\n".join(f"import {module}" for module in _modules(value.__name__, names))
        elif isinstance(value, types.FunctionType) and value.__module__ == function.__module__:
            parts[name] = ""  # lest two that call each other never end
            _collect(value, parts)
        elif isinstance(value, str | bytes | int | float | tuple):
            parts[name] = f"{name} = {value!r}"
    parts[function.__name__] = inspect.getsource(function)


def _modules(module: str, names: set[str]) -> list[str]:
    """Lists the module, and those inside it that are named too."""
    return [module, *(inner for name in sorted(names) if (inner := f"{module}.{name}") in sys.modules)]


def _names_in(code: types.CodeType) -> set[str]:
    nested = [_names_in(constant) for constant in code.co_consts if isinstance(constant, types.CodeType)]
    return set(code.co_names).union(*nested)
