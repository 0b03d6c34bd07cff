"""What does the pytest plugin cost? A suite of 2,000 trivial tests: without it, with it off, and judging each test."""

import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from harness import Contender, at_most_more, compiled, measure, rounds_wanted, save, timing_section

ROUNDS = 7
N_TESTS = 2000
N_SOCKETS = 100
PER_TEST = 0.3
"""Milliseconds that judging a test may take while 100 sockets are open."""
NOISE = 0.02
"""Milliseconds a test below which nothing is measurable here: the runs differ by more."""
SUITE = f"""
import pytest, socket
OPEN = [socket.socket() for _ in range(int("{{n_sockets}}"))]

@pytest.mark.parametrize("number", range({N_TESTS}))
def test_nothing(number):
    pass
"""
PLAIN = [f"-pno:{name}" for name in ("randomly", "asyncio", "anyio", "timeout", "xdist", "cacheprovider", "hypothesis")]


def run(folder: Path, environment: dict[str, str], n_sockets: int, options: list[str]) -> str:
    """Runs the suite and returns the last line that pytest printed."""
    command = [sys.executable, "-m", "pytest", "-q", *PLAIN, *options, f"test_{n_sockets}.py"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    return done.stdout.splitlines()[-1]


def check(line: str) -> None:
    """Makes sure that all tests ran and passed."""
    assert line.startswith(f"{N_TESTS} passed"), line


def main() -> None:
    """Measures, prints it and writes results/plugin.json."""
    without, judging = ["-pno:sockguard"], ["--socket-leaks=error"]
    ways = {
        "without the plugin": (0, without),
        "off": (0, []),
        "judging": (0, judging),
        f"without, {N_SOCKETS} sockets open": (N_SOCKETS, without),
        f"judging, {N_SOCKETS} sockets open": (N_SOCKETS, judging),
    }
    with tempfile.TemporaryDirectory() as name, compiled() as environment:
        folder = Path(name)
        (folder / "pytest.ini").touch()
        for n_sockets in (0, N_SOCKETS):
            (folder / f"test_{n_sockets}.py").write_text(SUITE.format(n_sockets=n_sockets), encoding="utf-8")
        safe = {**environment, "PYTHONSAFEPATH": "1"}
        contenders = [Contender(n, partial(run, folder, safe, *way), check) for n, way in ways.items()]
        times = measure(contenders, rounds_wanted(ROUNDS))
    bare, off, judged, bare_100, judged_100 = ways
    note = f"A run of {N_TESTS:,} tests with the start of pytest; {N_TESTS // 1000} ms are a microsecond for each test."
    bars = [
        at_most_more(times, off, bare, NOISE * N_TESTS),
        at_most_more(times, judged, bare, PER_TEST * N_TESTS),
        at_most_more(times, judged_100, bare_100, PER_TEST * N_TESTS),
    ]
    save("plugin", [timing_section("The plugin beside the suite", [note], times, bare, bars)], ["pytest"])


if __name__ == "__main__":
    main()
