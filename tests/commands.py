"""How tests run the command line: as a process of its own, the way anybody would."""

import functools
import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jsonschema
import pytest

__all__ = [
    "AS_NOBODY",
    "PATIENT",
    "PROGRAMS",
    "SOCKGUARD",
    "Outcome",
    "environment",
    "needs_root",
    "only_leak",
    "refusing",
    "report",
    "run",
    "validate",
]

PROGRAMS = Path(__file__).parent / "faults" / "programs"
SCHEMA = Path(__file__).parent.parent / "docs" / "reference" / "report.schema.json"

PYTHON = (sys.executable, "-P")
REFUSING = str(PROGRAMS / "refusing.py")
SOCKGUARD = (*PYTHON, "-m", "sockguard")
WITH_PATIENCE = """
import sys
import sockguard._kernel.control_client, sockguard.cli.reap
from sockguard.__main__ import main
sys.modules["sockguard._kernel.control_client"].ask.__defaults__ = (30.0,)
sys.modules["sockguard.cli.reap"].WATCH_SECONDS = 5.0
main()
"""
PATIENT = (*PYTHON, "-c", WITH_PATIENCE)
"""The same, where others get the processor late: it waits for their answers, and watches for longer."""
AS_NOBODY = (*PYTHON, str(PROGRAMS / "as_nobody.py"))
"""The same command line as a user without any right."""

OF_THE_TERMINAL = ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "TTY_COMPATIBLE")
"""Variables of whoever runs the tests that would change what is printed."""

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: makes namespaces, drops to another user")


def refusing(*calls: str) -> tuple[str, ...]:
    """Gives the command line inside a sandbox that refuses these: netlink, pidfd_getfd, setns."""
    return (*PYTHON, REFUSING, ",".join(calls))


class Outcome(NamedTuple):
    """How a command ended and what it said."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What it printed, decoded; for the leak report, `validate` holds it to its schema."""
        return json.loads(self.out)


def environment(**variables: str) -> dict[str, str]:
    """Gives the environment for a command: ours, less what would change its layout, with these variables."""
    kept = {name: value for name, value in os.environ.items() if name not in OF_THE_TERMINAL}
    return {**kept, **variables}


def run(*arguments: object, prefix: Sequence[str] = SOCKGUARD, **variables: str) -> Outcome:
    """Runs a command to its end; a traceback is never right, whatever was asked."""
    if REFUSING in prefix and platform.machine() not in ("x86_64", "aarch64"):
        pytest.skip("refusing.py does not know the numbers of system calls here: no sandbox was tested")
    finished = subprocess.run(
        [*prefix, *map(str, arguments)],
        env=environment(**variables),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    outcome = Outcome(finished.returncode, finished.stdout, finished.stderr)
    assert "Traceback" not in outcome.err, outcome.err
    return outcome


@functools.cache
def _validator() -> jsonschema.Draft202012Validator:
    schema = json.loads(SCHEMA.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker())


def validate(found: object) -> None:
    """Holds a report to docs/reference/report.schema.json.

    Raises:
        jsonschema.ValidationError: It breaks the promise made there.
    """
    _validator().validate(found)


def report(
    *pids: int, min_age: float = 0, options: Sequence[str] = (), prefix: Sequence[str] = SOCKGUARD
) -> dict[str, Any]:
    """Runs `sockguard report --json` on these processes; its form and exit status are checked each time."""
    chosen = [word for pid in pids for word in ("--pid", pid)] or ["--all"]
    outcome = run("report", "--json", "--min-age", min_age, *chosen, *options, prefix=prefix)
    found = outcome.json
    validate(found)
    is_leaking = any(leak["cause"] != "ended_by_guard" for leak in found["leaks"])
    assert outcome.status == (1 if is_leaking else 0), outcome.err
    return found


def only_leak(*pids: int, **how: Any) -> dict[str, Any]:
    """Gives the one leak that the report on these processes names."""
    (leak,) = report(*pids, **how)["leaks"]
    return leak
