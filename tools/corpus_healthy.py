"""Runs the healthy programs of the corpus and looks at them all the while: a report must be silent.

Usage: corpus_healthy.py CORPUS VENVS

CORPUS is the folder with cases.tsv, VENVS the one with the environments that its run_all.sh made.
Exit status 1 if any look at any of the programs named a leak.
"""

import csv
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

PAUSE = 0.2
"""Seconds between two looks; a case takes about 5 s."""


def main() -> int:
    """Judges every healthy case."""
    corpus, venvs = map(Path, sys.argv[1:3])
    with (corpus / "cases.tsv").open() as file:
        cases = [row[:2] for row in csv.reader(file, delimiter="\t") if row[0].startswith("healthy-")]
    n_false_alarms = 0
    for slug, venv in cases:
        looks = list(watch(venvs / venv / "bin/python", corpus / slug / "drive.py"))
        alarms = [text for status, text in looks if status == 1]
        n_false_alarms += len(alarms)
        silent = sum(status == 0 for status, _ in looks)
        verdict = f"{len(alarms)} FALSE ALARMS" if alarms else "SILENT"
        others = len(looks) - silent - len(alarms)
        print(f"{verdict} {slug}: {silent} looks found nothing, in {others} a process had just ended")
        print("".join(alarms[:1]), end="")
        if not silent:
            print(f"{slug} could not be looked at: {looks[-1:]}")
            n_false_alarms += 1
    return int(n_false_alarms > 0)


def watch(python: Path, driver: Path) -> Iterator[tuple[int, str]]:
    """Runs a driver and yields exit status and output of a report on its processes, until it ends."""
    with subprocess.Popen([python, driver], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as drive:
        while drive.poll() is None:
            programs = [pid for pid in descendants(drive.pid) if is_in_session_of_its_own(pid, drive.pid)]
            pids = [option for pid in programs for option in ("--pid", str(pid))]
            if pids:
                command = [sys.executable, "-m", "sockguard", "report", *pids]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                yield done.returncode, done.stdout + done.stderr
            time.sleep(PAUSE)


def descendants(pid: int) -> list[int]:
    """Lists the children of a process, and theirs (/proc/PID/task/TID/children, proc(5))."""
    found: list[int] = []
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += map(int, children.read_text().split())
        except OSError:
            continue  # the thread has ended
    return found + [deeper for child in found for deeper in descendants(child)]


def is_in_session_of_its_own(pid: int, driver: int) -> bool:
    """Tells the program under test, which gets a new session, from what its driver runs to look at it."""
    try:
        return os.getsid(pid) != os.getsid(driver)
    except ProcessLookupError:
        return False


if __name__ == "__main__":
    sys.exit(main())
