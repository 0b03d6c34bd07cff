"""Which tool finds which leak, and whom does it blame? Twelve kinds in one suite, each followed by an innocent test.

What it needs is in benchmarks/plugin-requirements.txt; a tool that is not installed is left out.
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from harness import Bar, Section, save

SUITE = Path(__file__).parent / "scoreboard"
LIMIT = 20
"""Seconds for one run; none that ends takes half of it."""
UNRAISABLE = ("-W", "error::ResourceWarning", "-W", "error::pytest.PytestUnraisableExceptionWarning")


class Tool(NamedTuple):
    """One column."""

    name: str
    package: str
    options: tuple[str, ...]


TOOLS = (
    Tool("sockguard", "sockguard", ("--socket-leaks=error",)),
    Tool("pytest, both filters", "pytest", UNRAISABLE),
    Tool("pyleak", "pyleak", ()),
    Tool("psleak", "psleak", ()),
    Tool("pytest-openfiles", "pytest-openfiles", ("--open-files",)),
)
OF_FIXTURE = "session_fixture"
"""The kind that a fixture is to be blamed for, and no test."""


class Verdict(NamedTuple):
    """What one tool has made of one kind."""

    word: str
    """yes, -, or hangs."""
    innocents: int
    """Innocent tests that failed."""


def is_installed(package: str) -> bool:
    """Tells whether a tool is there."""
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True


def run(tool: Tool, kind: str) -> Verdict:
    """Has one tool watch the test that leaks and the innocent one after it, in a process of their own."""
    printed = printed_by(tool, f"test_{kind} or test_innocent_after_{kind}")
    if printed is None:
        return Verdict("hangs", 0)
    rows = re.findall(r"^(PASSED|FAILED|ERROR) \S+::(\w+)", printed, re.MULTILINE)
    bad = {name for word, name in rows if word != "PASSED"}
    guilty = kind if kind == OF_FIXTURE else f"test_{kind}"
    innocents = {f"test_innocent_after_{kind}", f"test_{kind}"} - {guilty}
    assert len(rows) >= 2, f"{tool.name} did not run both tests:\n{printed}"  # noqa: PLR2004 - both
    return Verdict("yes" if guilty in bad else "-", len(bad & innocents))


def printed_by(tool: Tool, tests: str) -> str | None:
    """Runs pytest in a session of its own, and ends with it what its tests have left behind; None if it hangs."""
    command = [sys.executable, "-m", "pytest", "-p", "no:randomly", "-p", "no:cacheprovider", "-rA", "--tb=no"]
    command += ["-c", os.devnull, f"--rootdir={SUITE}", *tool.options, "-k", tests, str(SUITE)]
    environment = os.environ | {"SCOREBOARD_TOOL": tool.name, "PYTHONSAFEPATH": "1", "COLUMNS": "200"}
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output, start_new_session=True)
        try:
            process.wait(LIMIT)
        except subprocess.TimeoutExpired:
            return None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        output.seek(0)
        return output.read()


def kinds_in_order() -> list[str]:
    """Lists the kinds as the suite has them."""
    names = re.findall(r"def test_(\w+)\(", (SUITE / "test_leaks.py").read_text(encoding="utf-8"))
    return [name for name in names if not name.startswith("innocent")]


def main() -> None:
    """Runs all tools, prints the board and writes results/plugin_scoreboard.json."""
    tools = [tool for tool in TOOLS if is_installed(tool.package)]
    kinds = kinds_in_order()
    board = {tool.name: [run(tool, kind) for kind in kinds] for tool in tools}
    rows = [[kind, *(verdicts[n].word for verdicts in board.values())] for n, kind in enumerate(kinds)]
    right = {name: sum(verdict.word == "yes" for verdict in verdicts) for name, verdicts in board.items()}
    innocents = {name: sum(verdict.innocents for verdict in verdicts) for name, verdicts in board.items()}
    rows.append(["blamed right", *(f"{count} of {len(kinds)}" for count in right.values())])
    rows.append(["innocents blamed", *map(str, innocents.values())])
    ours, wrong = right["sockguard"], innocents["sockguard"]
    bars = [
        Bar("sockguard finds all kinds and blames who leaked", ours, 0, 0, f" of {len(kinds)}", ours == len(kinds)),
        Bar("sockguard blames no innocent", wrong, 0, 0, "", wrong == 0),
    ]
    notes = (
        "yes: the test that leaked fails, or the fixture that did; -: it passes; hangs: the run does not end.",
        "Each kind runs in a process of its own, followed by an innocent test that collects garbage.",
        (
            "pyleak looks for tasks and threads, psleak for descriptors around one call of the test, but not that of a "
            "coroutine, pytest-openfiles for regular files: no tool is at fault where it looks for something else."
        ),
    )
    section = Section("Leaks in tests: found, and blamed on the right one", notes, ("leak", *board), rows, bars)
    save("plugin_scoreboard", [section], [tool.package for tool in tools])


if __name__ == "__main__":
    main()
