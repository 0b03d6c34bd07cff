"""The wrappers once more, on the back end of systems whose kernel keeps no books: their own tests, all of them.

What needs a fact that only Linux tells is marked `needs_books`, and skipped here with that
reason. By hand: `SOCKGUARD_BACKEND=portable make test ARGS=tests/adapters/test_socket.py`.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
WRAPPERS = (
    "test_socket.py",
    "test_socketserver.py",
    "selectors/test_selector.py",
    "loops/test_opening.py",
    "streams/test_opening.py",
    "test_endings.py",
)
MAX_SHARE_SKIPPED = 0.25
"""Of the tests of a wrapper. Whoever marks a test takes this away from what runs elsewhere."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.one_python,
    pytest.mark.timeout(600),
    pytest.mark.skipif(os.environ.get("SOCKGUARD_BACKEND") == "portable", reason="they are run on it already"),
]


@pytest.fixture
def order(pytestconfig):
    """The option that has the tests run in the same order as this run's; none without pytest-randomly."""
    seed = pytestconfig.getoption("randomly_seed", None)
    return [] if seed is None else [f"--randomly-seed={seed}"]


def run(*arguments: str) -> tuple[int, str]:
    """Runs tests without the kernel's books; gives exit status and what was printed."""
    environment = {**os.environ, "SOCKGUARD_BACKEND": "portable", "PYTHONSAFEPATH": "1"}
    # Who leaves a socket open is asked where the tests run as usual.
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--socket-leaks=off", "--tb=short", *arguments]
    done = subprocess.run(command, env=environment, cwd=HERE.parent, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def count(said: str, outcome: str) -> int:
    """Reads from the last line how many tests had an outcome."""
    found = re.search(rf"(\d+) {outcome}", said.splitlines()[-1])
    return int(found[1]) if found else 0


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_wrapper_does_the_same_by_its_own_stamps(wrapper, order):
    """Every test of its own passes, or says that it needs the kernel's books; and few do."""
    status, said = run(f"tests/adapters/{wrapper}", *order)
    assert "sockguard: KERNEL_KEEPS_BOOKS=False" in said
    assert status == 0, said[-20_000:]
    n_skipped = sum(int(n) for n in re.findall(r"SKIPPED \[(\d+)\] .*needs the kernel's books", said))
    assert n_skipped <= MAX_SHARE_SKIPPED * (count(said, "passed") + n_skipped)
    assert count(said, "passed") > 0


BROKEN = """
def test_that_tells_which_back_end_it_is_run_on():
    \"\"\"Fails where wrappers keep stamps.\"\"\"
    from sockguard._kernel.backend import KERNEL_KEEPS_BOOKS
    assert KERNEL_KEEPS_BOOKS
"""


def test_a_wrapper_that_does_not_work_there_is_found(tmp_path):
    """The same command fails for a test that fails on that back end, and on no other."""
    path = tmp_path / "test_broken.py"
    path.write_text(BROKEN, "utf-8")
    status, said = run(str(path), "-c", str(HERE.parent / "pyproject.toml"), "--rootdir", str(HERE.parent))
    assert (status, count(said, "failed")) == (1, 1), said
