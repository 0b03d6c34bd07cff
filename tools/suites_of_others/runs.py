"""Runs a suite once and reads what came of it."""

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from environments import Suite

__all__ = ["Run", "run_suite"]

TIMEOUT = 1200
"""Seconds for one run."""
LINGER = 30
"""Seconds that a process may take to end after its last test: a thread may wait for ever."""
HOSTS = "127.0.0.1 localhost\n::1 localhost ip6-localhost\n"
"""Some suites count on it that localhost has both addresses."""


class Run(NamedTuple):
    """What came of one run."""

    seconds: float
    outcomes: dict[str, str]
    """By test: how its phases ended, leaks aside."""
    n_leak_errors: int
    """Reports of a SocketLeakError."""
    leaks: list[dict[str, Any]]
    evidence: dict[str, dict[str, Any]]
    printed: str
    """The last lines."""


def run_suite(suite: Suite, tests: list[str] | None = None, *, is_judging: bool = False, wait: float = 0.0) -> Run:
    """Runs it in order.

    Args:
        suite: What is run.
        tests: Only these.
        is_judging: With the plugin at work.
        wait: Seconds to look for what each test leaves open, by the descriptors of the process; 0 for not at all.
    """
    with tempfile.TemporaryDirectory() as name:
        record, report, hosts = (Path(name) / word for word in ("record", "report", "hosts"))
        hosts.write_text(HOSTS, encoding="utf-8")
        words = ["-q", "-p", "recorder", "-p", "no:cacheprovider", *suite.words, *(tests or suite.tests)]
        if is_judging:
            words += ["--socket-leaks=error", f"--socket-leaks-report={report}"]
        if wait:
            words += ["-W", "always::ResourceWarning", "-p", "no:unraisableexception"]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        environment |= {
            "SUITE_RECORD": str(record),
            "SUITE_WAIT": str(wait),
            "PYTHONPATH": f"{Path(__file__).parent}:{suite.path}",
        }
        begun_at = time.time()
        command = [*_with_hosts(hosts), str(suite.python), "-m", "pytest", *words]
        printed = _printed(command, suite.folder, environment)
        ended_at = record.stat().st_mtime if record.exists() else time.time()  # without what lingers on
        return _read(ended_at - begun_at, record, report, printed)


def _with_hosts(hosts: Path) -> list[str]:
    """Gives what a command is put behind in order to see another /etc/hosts; nothing where that is not allowed."""
    script = f'mount --bind "{hosts}" /etc/hosts && exec "$@"'
    words = ["unshare", "--mount", "sh", "-c", script, "sh"]
    is_allowed = (
        shutil.which("unshare") and not subprocess.run([*words, "true"], capture_output=True, check=False).returncode
    )
    return words if is_allowed else []


def _printed(command: list[str], folder: Path, environment: dict[str, str]) -> str:
    """Runs pytest and gives the last lines; ends it, and what it has started, if its tests or its threads hang."""
    record = Path(environment["SUITE_RECORD"])
    give_up_at = time.monotonic() + TIMEOUT
    with tempfile.TemporaryFile("w+", errors="replace") as output:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=output, stderr=output, start_new_session=True
        )
        while process.poll() is None and time.monotonic() < give_up_at:
            time.sleep(0.2)
            if record.exists():
                give_up_at = min(give_up_at, record.stat().st_mtime - time.time() + time.monotonic() + LINGER)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        output.seek(0)
        return "\n".join(output.read().splitlines()[-20:])


def _read(seconds: float, record: Path, report: Path, printed: str) -> Run:
    if not record.exists():
        return Run(seconds, {}, 0, [], {}, printed)
    told = json.loads(record.read_text(encoding="utf-8"))
    phases: dict[str, list[str]] = {}
    for test, when, outcome, is_leak in told["outcomes"]:
        if not is_leak:
            phases.setdefault(test, []).append(outcome if when == "call" else f"{outcome} in {when}")
    leaks = json.loads(report.read_text(encoding="utf-8"))["leaks"] if report.exists() else []
    errors = sum(is_leak for *_, is_leak in told["outcomes"])
    outcomes = {test: ", ".join(sorted(set(words))) for test, words in phases.items()}
    return Run(
        seconds, outcomes, errors, [leak for leak in leaks if leak["status"] == "error"], told["evidence"], printed
    )
