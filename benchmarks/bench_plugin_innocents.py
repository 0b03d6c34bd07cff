"""How often is an innocent blamed? A thousand tests that close what they open, 20 times, each in another order."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from harness import Bar, Section, rounds_wanted, save

ROUNDS = 20
SUITES = Path(__file__).parent.parent / "tests/pytest_plugin/suites"
TIMES = 40
"""Each of its 26 tests."""


def run(folder: Path, seed: int) -> tuple[int, int, int]:
    """Runs the suite in one order: how many passed, erred or failed, and were charged with a leak."""
    report = folder / "report.json"
    command = [sys.executable, "-m", "pytest", "-q", "--tb=short", "-p", "no:cacheprovider", f"--randomly-seed={seed}"]
    command += ["--socket-leaks=error", f"--socket-leaks-report={report}"]
    environment = os.environ | {"INNOCENT_TIMES": str(TIMES), "PYTHONSAFEPATH": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    counts = {word: int(count) for count, word in re.findall(r"(\d+) (passed|failed|error)", done.stdout)}
    charged = json.loads(report.read_text(encoding="utf-8"))["leaks"]
    if charged or counts.get("error"):
        print(done.stdout[-5000:])
    return counts.get("passed", 0), counts.get("failed", 0) + counts.get("error", 0), len(charged)


def main() -> None:
    """Runs all orders and writes results/plugin_innocents.json."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copy(SUITES / "conftest_server.py", folder / "conftest.py")
        shutil.copy(SUITES / "innocents.py", folder / "test_innocents.py")
        (folder / "pytest.ini").touch()
        outcomes = [run(folder, seed) for seed in range(1, rounds_wanted(ROUNDS) + 1)]
    rows = [[str(seed), *outcome] for seed, outcome in enumerate(outcomes, 1)]
    blamed = sum(bad + charged for _, bad, charged in outcomes)
    section = Section(
        "Innocent tests in random order",
        ["One row for each order; the seed is that of pytest-randomly."],
        ("seed", "passed", "failed or erred", "charged with a leak"),
        rows,
        [Bar("no innocent is blamed", blamed, 0, 0, "", blamed == 0)],
    )
    save("plugin_innocents", [section], ["pytest", "pytest-randomly"])


if __name__ == "__main__":
    main()
