#!/usr/bin/env python3
"""CPython's own test_selectors, plain and with GuardedSelector around each selector: no outcome may change.

    tools/conformance_shim/selectors_shim.py

Run it with each interpreter that is to be tried, with sockguard and what it needs on PYTHONPATH. All
is run twice: with the socket pairs of the tests, which are Unix sockets, and with TCP connections in
their place, which the guard takes in. `SOCKGUARD_*` variables hold for the guarded side. What changed
is run twice more on both sides, so that a busy machine is not taken for a change.

Exit status 0: nothing changed, or it could not be run here, which is said aloud; 1: something changed.
"""

import abc
import contextlib
import importlib
import json
import os
import selectors
import socket
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path
from typing import Any

TOP = Path(__file__).resolve().parents[2]
NAMES = ("SelectSelector", "PollSelector", "EpollSelector", "KqueueSelector", "DevpollSelector")
WAYS = ("unix", "tcp")
N_CONFIRM = 2
MAX_FDS = 4096
"""With TCP, as test_above_fd_setsize makes as many connections as it may have descriptors."""

Outcomes = dict[str, str]

EXPECTED: dict[str, str] = {}
"""Part of a test's name -> why its outcome changes."""


# --- One side, in a process of its own ---


class _Twin(abc.ABCMeta):
    """Hands on what a test patches in the class to the original, where it has its effect."""

    original: Any

    def __setattr__(cls, name: str, value: object) -> None:
        super().__setattr__(name, value)
        if name == "_selector_cls":
            setattr(cls.original, name, value)


def guarded(original: Any) -> Any:  # noqa: ANN401 - any selector
    """Makes a class that looks like a selector of the standard library, and guards it."""
    from sockguard.wrappers import GuardedSelector  # noqa: PLC0415 - the plain side must not load it

    def make(self: Any) -> None:  # noqa: ANN401
        GuardedSelector.__init__(self, original())
        n_made[0] += 1

    body = {"__init__": make, "original": original}
    if hasattr(original, "_selector_cls"):
        body["_selector_cls"] = original._selector_cls  # noqa: SLF001
    return _Twin(original.__name__, (GuardedSelector,), body)


n_made = [0]


def swap() -> None:
    """Puts guarded selectors under the names of the standard library."""
    default = selectors.DefaultSelector
    for name in NAMES:
        original = getattr(selectors, name, None)
        if original is not None:
            twin = guarded(original)
            setattr(selectors, name, twin)
            if original is default:
                setattr(selectors, "DefaultSelector", twin)  # noqa: B010 - it is a class to the type checker


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """Makes a TCP connection in place of a socket pair."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        return client, listener.accept()[0]


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


def run_side(side: str, way: str, path: str, names: list[str]) -> None:
    """Runs the tests in this process and writes what came of them."""
    if side == "guarded":
        swap()
    tests = importlib.import_module("test.test_selectors")
    if way == "tcp":
        import resource  # noqa: PLC0415 - not on Windows, where nothing is run

        resource.setrlimit(resource.RLIMIT_NOFILE, (MAX_FDS, MAX_FDS))
        setattr(tests, "socketpair", tcp_pair)  # noqa: B010
    loader, result = unittest.defaultTestLoader, _Result()
    suite = loader.loadTestsFromNames(names) if names else loader.loadTestsFromModule(tests)
    suite.run(result)
    Path(path).write_text(json.dumps([result.outcomes, n_made[0]]), encoding="utf-8")


# --- Both sides ---


def outcomes_of(side: str, way: str, names: list[str]) -> Outcomes:
    """Runs one side.

    Raises:
        RuntimeError: It came to no end, or swapped nothing.
    """
    with tempfile.TemporaryDirectory(prefix="selectors-shim-") as folder:
        path = str(Path(folder) / "outcomes.json")
        command = [sys.executable, "-P", __file__, "--side", side, way, path, *names]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=600, env=_environment(side))
        try:
            outcomes, n_selectors = json.loads(Path(path).read_text(encoding="utf-8"))
        except FileNotFoundError:
            msg = f"the {side} side ended with {done.returncode}: {done.stderr[-2000:]}"
            raise RuntimeError(msg) from None
    if side == "guarded" and not n_selectors:
        msg = "no test has made a guarded selector"
        raise RuntimeError(msg)
    return dict(outcomes)


def _environment(side: str) -> dict[str, str]:
    found = {
        name: value for name, value in os.environ.items() if side == "guarded" or not name.startswith("SOCKGUARD_")
    }
    return found | {"PYTHONPATH": os.pathsep.join(filter(None, (str(TOP), os.environ.get("PYTHONPATH", ""))))}


def changed(before: Outcomes, after: Outcomes) -> list[str]:
    """Lists the tests that came out otherwise, by the first word."""

    def word(outcomes: Outcomes, name: str) -> str:
        return outcomes.get(name, "missing").partition(":")[0]

    return [name for name in sorted(before | after) if word(before, name) != word(after, name)]


def compare(way: str) -> int:
    """Runs both sides and prints what changed; gives the number of changes that nobody expects."""
    plain, ours = outcomes_of("plain", way, []), outcomes_of("guarded", way, [])
    found = changed(plain, ours)
    for _ in range(N_CONFIRM):
        if found:
            again = outcomes_of("plain", way, found), outcomes_of("guarded", way, found)
            found = [name for name in found if name in changed(*again)]
    unexpected = [name for name in found if not any(part in name for part in EXPECTED)]
    for name in found:
        reason = next((why for part, why in EXPECTED.items() if part in name), "")
        print(f"{name}: {plain.get(name)} -> {ours.get(name)} {reason}")
    n_passed = sum(outcome == "passed" for outcome in ours.values())
    version = ".".join(map(str, sys.version_info[:3]))
    print(f"test_selectors of {version}, {way}: {len(plain)} tests, {n_passed} pass guarded, changed {len(unexpected)}")
    return len(unexpected)


def why_not() -> str:
    """Says why it cannot be run here; "" if it can."""
    with contextlib.suppress(ImportError):
        importlib.import_module("test.test_selectors")
        done = subprocess.run(
            [sys.executable, "-P", "-c", "import sockguard.wrappers"],
            check=False,
            capture_output=True,
            text=True,
            env=_environment("guarded"),
        )
        return done.stderr.strip().rpartition("\n")[2]
    return "this Python has no test.test_selectors"


def main(words: list[str]) -> int:
    """Does what it was asked."""
    if words[:1] == ["--side"]:
        side, way, path, *names = words[1:]
        run_side(side, way, path, names)
        return 0
    if reason := why_not():
        print(f"SKIPPED: {reason}")
        return 0
    return min(1, sum(compare(way) for way in WAYS))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
