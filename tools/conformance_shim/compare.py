"""Runs suites of CPython plainly and with a wrapper in the place of the original, and compares them test by test.

    compare.py PYTHON SWAP MODULE...

What differs is run twice more, each way: what then differs each time has changed, the rest is noise. A
change that is wanted stands in EXPECTED, with its reason; one there that no longer happens is
told as well. Exit status 0: nothing changed but that; 1: something did; 2: it could not be run.
"""

import os
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).parent
TIMEOUT = 900
"""Seconds for one run."""
RESOURCES = "all,-urlfetch,-largefile,-gui,-audio"
LEAVE_OUT = ("*VSOCK*",)
"""They talk to the host of a virtual machine, and hang under some."""

FOREIGN, KEPT = ("PYTHON", "SOCKGUARD"), ("SOCKGUARD_BACKEND",)
"""Variables of whoever calls that must not change an outcome, and the one that says which way is tested."""

EXPECTED: dict[str, dict[str, str]] = {}
"""By swap, then by test: why its outcome is another one."""

Outcomes = dict[str, str]


def run(python: str, swap: str, modules: Sequence[str], only: Sequence[str] = ()) -> Outcomes:
    """Runs modules, or some tests of them; gives the outcome of each test, and of each module as a whole."""
    outcomes: Outcomes = {}
    for module in modules:
        with tempfile.TemporaryDirectory(prefix="cw-") as folder:
            outcomes |= run_module(python, swap, module, only, Path(folder))
    return outcomes


def run_module(python: str, swap: str, module: str, only: Sequence[str], folder: Path) -> Outcomes:
    """Runs one module in a process of its own, with its temporary files in a folder."""
    report = folder / "junit.xml"
    choice = [word for name in LEAVE_OUT for word in ("--ignore", name)]
    choice += [word for name in only if name.startswith(f"test.{module}.") for word in ("--match", name)]
    command = [python, str(HERE / "swapped.py"), swap, "-u", RESOURCES, "--junit-xml", str(report), *choice, module]
    environ = {name: value for name, value in os.environ.items() if name in KEPT or not name.startswith(FOREIGN)}
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env={**environ, "TMPDIR": str(folder)},
            capture_output=True,
            timeout=TIMEOUT,
            check=False,
        )
        status, text = str(done.returncode), (done.stdout + done.stderr).decode(errors="replace")
    except subprocess.TimeoutExpired as error:
        status, text = "time-out", (error.stdout or b"").decode(errors="replace")
    if not report.exists():
        print(text[-2000:])
        return {f"[file] {module}": f"crashed ({status})"}
    return {f"[file] {module}": status, **read(report), **failed_in_part(text)}


def read(report: Path) -> Outcomes:
    """Reads what regrtest wrote in JUnit's format."""
    found: Outcomes = {}
    for case in ET.parse(report).getroot().iter("testcase"):  # noqa: S314 - our own file
        if name := case.get("name"):
            tags = {child.tag for child in case}
            found[name] = next((tag for tag in ("error", "failure", "skipped") if tag in tags), "passed")
    return found


def failed_in_part(text: str) -> Outcomes:
    """Finds tests of which a part failed: those have no name in the report."""
    heads = re.findall(r"^(FAIL|ERROR): \S+ \(([\w.]+)\)", text, re.MULTILINE)
    return {name: "failure" if kind == "FAIL" else "error" for kind, name in heads}


def differing(one: Outcomes, other: Outcomes) -> list[str]:
    """Lists the tests whose outcomes differ, those included that only one has."""
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def compare(python: str, swap: str, modules: Sequence[str]) -> int:
    """Compares, and tells; gives the exit status."""
    plain, swapped = run(python, "plain", modules), run(python, swap, modules)
    changed = differing(plain, swapped)
    for _ in range(2):
        tests = [name for name in changed if not name.startswith("[file]")]
        if tests:
            again = differing(run(python, "plain", modules, tests), run(python, swap, modules, tests))
            changed = [name for name in changed if name in again]
    expected = EXPECTED.get(swap, {})
    for name in changed:
        print(f"{name}: {plain.get(name)} -> {swapped.get(name)}  {expected.get(name, 'CHANGED')}")
    gone = [name for name in expected if name not in changed and name in plain]
    for name in gone:
        print(f"{name}: is expected to change, and does not any more")
    count = sum(not name.startswith("[file]") for name in plain)
    n_passed = sum(outcome == "passed" for outcome in plain.values())
    # That the whole of a file differs is told by its tests.
    unexpected = [name for name in changed if name not in expected and not name.startswith("[file]")]
    n_expected = sum(name in expected for name in changed)
    print(f"{swap}: {count} tests, {n_passed} pass plainly, {len(unexpected)} changed, {n_expected} as expected")
    return int(bool(unexpected or gone)) if count else 2


if __name__ == "__main__":
    sys.exit(compare(sys.argv[1], sys.argv[2], sys.argv[3:]))
