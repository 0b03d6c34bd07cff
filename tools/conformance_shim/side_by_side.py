"""Runs tests of unittest plainly and with something swapped, each side in a process of its own, and compares them.

What changed is run twice more on both sides, so that a busy machine is not taken for a change.
`SOCKGUARD_*` variables hold for the guarded side alone.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import unittest
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["Shim"]

HERE = Path(__file__).resolve().parent
N_CONFIRM = 2
TIMEOUT = 900
"""Seconds for one side."""

Outcomes = dict[str, str]


class Shim(NamedTuple):
    """What is swapped, and for which tests."""

    script: str
    """The file of the shim, which is started anew for each side."""
    ours: str
    """The module of sockguard that is put to use."""
    expected: Mapping[str, str]
    """Part of a test's name -> why its outcome changes."""
    swap: Callable[[], None]
    load: Callable[[str], Any]
    """Imports the tests of a part of the trial, made ready to run."""
    n_used: Callable[[], int]
    """Tells how often something of ours was used."""

    def main(self, words: list[str], parts: Iterable[str]) -> int:
        """Does what it was asked: one side, or the comparison of all parts. Gives the exit status."""
        if words[:1] == ["--side"]:
            side, part, path, *names = words[1:]
            self._run_side(side, part, path, names)
            return 0
        parts = list(parts)
        if reason := self._why_not(parts[0]):
            print(f"SKIPPED: {reason}")
            return 0
        print(f"{Path(self.script).stem} on Python {'.'.join(map(str, sys.version_info[:3]))}", flush=True)
        unexpected, used = zip(*map(self._compare, parts), strict=True)
        if not any(used):
            print("FAILED: nothing of ours was ever used")
        return int(any(unexpected) or not any(used))

    def _run_side(self, side: str, part: str, path: str, names: list[str]) -> None:
        """Runs the tests in this process and writes what came of them."""
        if side == "guarded":
            self.swap()
        tests = self.load(part)
        loader, result = unittest.defaultTestLoader, _Result()
        suite = loader.loadTestsFromNames(names) if names else loader.loadTestsFromModule(tests)
        suite.run(result)
        Path(path).write_text(json.dumps([result.outcomes, self.n_used()]), encoding="utf-8")

    def _compare(self, part: str) -> tuple[int, int]:
        """Runs both sides and prints what changed; counts the changes that nobody expects, and the uses of ours."""
        with ThreadPoolExecutor() as both:  # mostly they wait
            (plain, _), (ours, n_used) = both.map(self._outcomes_of, ("plain", "guarded"), (part, part), ([], []))
        found = _changed(plain, ours)
        for _ in range(N_CONFIRM):
            if found:
                again = self._outcomes_of("plain", part, found)[0], self._outcomes_of("guarded", part, found)[0]
                found = [name for name in found if name in _changed(*again)]
        unexpected = [name for name in found if not any(wanted in name for wanted in self.expected)]
        for name in found:
            reason = next((why for wanted, why in self.expected.items() if wanted in name), "")
            print(f"{name}: {plain.get(name)} -> {ours.get(name)} {reason}")
        n_passed = sum(outcome == "passed" for outcome in ours.values())
        told = f"{part}: {len(plain)} tests, {n_passed} pass guarded, {n_used} times ours, changed {len(unexpected)}"
        print(told, flush=True)
        return len(unexpected), n_used

    def _outcomes_of(self, side: str, part: str, names: list[str]) -> tuple[Outcomes, int]:
        """Runs one side; gives the outcomes, and how often something of ours was used.

        Raises:
            RuntimeError: It came to no end.
        """
        with tempfile.TemporaryDirectory(prefix="shim-") as folder:
            path = str(Path(folder) / "outcomes.json")
            command = [sys.executable, "-P", self.script, "--side", side, part, path, *names]
            done = _run(command, side, cwd=folder, errors="replace", timeout=TIMEOUT)
            try:
                outcomes, n_used = json.loads(Path(path).read_text(encoding="utf-8"))
            except FileNotFoundError:
                msg = f"the {side} side ended with {done.returncode}: {done.stderr[-2000:]}"
                raise RuntimeError(msg) from None
        return outcomes, n_used

    def _why_not(self, part: str) -> str:
        """Says why it cannot be run here; "" if it can."""
        with contextlib.suppress(ImportError):
            self.load(part)
            done = _run([sys.executable, "-P", "-c", f"import {self.ours}"], "guarded")
            return done.stderr.strip().rpartition("\n")[2]
        return "this Python has no tests of its own"


class _Result(unittest.TestResult):
    """Takes down what comes of each test; the worst counts."""

    def __init__(self) -> None:
        super().__init__()
        self.outcomes: Outcomes = {}

    def addSuccess(self, test: unittest.TestCase) -> None:  # noqa: N802 - unittest's name
        self.outcomes.setdefault(test.id(), "passed")

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:  # noqa: N802
        self.outcomes[test.id()] = f"skipped: {reason}"

    def addFailure(self, test: unittest.TestCase, err: Any) -> None:  # noqa: ANN401, N802 - sys.exc_info()
        self.outcomes[test.id()] = f"failed: {self._exc_info_to_string(err, test)}"  # type: ignore[attr-defined]

    addError = addFailure  # noqa: N815 - unittest's name

    def addSubTest(self, test: unittest.TestCase, _: unittest.TestCase, err: Any) -> None:  # noqa: ANN401, N802
        if err is not None:
            self.addFailure(test, err)


def _run(command: list[str], side: str, **how: Any) -> "subprocess.CompletedProcess[str]":  # noqa: ANN401
    environ = {
        name: value for name, value in os.environ.items() if side == "guarded" or not name.startswith("SOCKGUARD_")
    }
    environ["PYTHONPATH"] = os.pathsep.join(
        filter(None, (str(HERE.parents[1]), str(HERE), os.environ.get("PYTHONPATH", "")))
    )
    return subprocess.run(command, check=False, capture_output=True, text=True, env=environ, **how)


def _changed(before: Outcomes, after: Outcomes) -> list[str]:
    """Lists the tests that came out otherwise, by the first word."""

    def word(outcomes: Outcomes, name: str) -> str:
        return outcomes.get(name, "missing").partition(":")[0]

    return [name for name in sorted(before | after) if word(before, name) != word(after, name)]
