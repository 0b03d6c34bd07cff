"""Runs a small suite in a process of its own and tells what became of each of its tests."""

import json
import os
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import NamedTuple

__all__ = ["SUITES", "Outcome", "run_suite", "write"]

PATIENCE = 10.0
"""Seconds that innocent tests have for threads and servers to close what they are about to close: on a busy machine."""
SUITES = Path(__file__).parent / "suites"
OF_THE_RUN = ("PYTEST", "PY_COLORS", "FORCE_COLOR", "NO_COLOR", "COLUMNS", "CI", "BUILD_NUMBER")
"""How the variables begin by which the run of our own suite would change that of the small one; on CI, pytest tells
each message twice."""
IS_INSTALLED = any(entry.name == "sockguard" for entry in entry_points(group="pytest11"))
PLUGIN = [] if IS_INSTALLED else ["-p", "sockguard.pytest_plugin.entry"]


class Outcome(NamedTuple):
    """What a run has told."""

    status: int
    text: str
    leaks: list[dict[str, object]]
    report: dict[str, object]

    @property
    def errors(self) -> list[str]:
        """The node ids of those that erred, as the summary lists them."""
        return self._with("ERROR")

    @property
    def passed(self) -> list[str]:
        """The node ids of those that passed."""
        return self._with("PASSED")

    def blamed(self) -> set[str]:
        """The names of those that were charged with something, and fail for it."""
        return {str(leak["test"]).rpartition("::")[2] for leak in self.leaks if leak["status"] == "error"}

    def _with(self, word: str) -> list[str]:
        rows = [line.split(" ", 1)[1] for line in self.text.splitlines() if line.startswith(f"{word} ")]
        return [row.partition(" - ")[0] for row in rows]


def write(folder: Path, **files: str) -> None:
    """Writes files: `test_a="..."` makes test_a.py."""
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)


def run_suite(folder: Path, *options: str, leaks: str | None = "error", randomly: bool = False) -> Outcome:
    """Runs pytest in a folder.

    Args:
        leaks: the option `--socket-leaks`; None to leave it out.
        randomly: shuffle the tests.
    """
    report = folder / "report.json"
    report.unlink(missing_ok=True)
    (folder / "pytest.ini").touch()
    asked = [] if leaks is None else [f"--socket-leaks={leaks}"]
    shuffle = [] if randomly else ["-p", "no:randomly"]
    command = [sys.executable, "-m", "pytest", *PLUGIN, *shuffle, *asked, "-o", f"socket_leaks_grace={PATIENCE}"]
    told = [] if "no:terminal" in options else ["-rA", "--tb=short"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(OF_THE_RUN)}
    done = subprocess.run(
        [*command, f"--socket-leaks-report={report}", *told, "-p", "no:cacheprovider", *options],
        cwd=folder,
        env=environment | {"PYTHONSAFEPATH": "1", "COLUMNS": "200"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    found = json.loads(report.read_text()) if report.exists() else {}
    return Outcome(done.returncode, done.stdout, found.get("leaks", []), found)
