#!/usr/bin/env python3
"""CPython's own tests of asyncio's servers, streams and TLS, plain and with sockguard.aio: no outcome may change.

    tools/conformance_shim/asyncio_shim.py [MODULE...]     # such as test_streams

Run it with each interpreter that is to be tried, with sockguard and what it needs on PYTHONPATH.
What is swapped are the functions of `asyncio` and the methods of its event loops that open
connections. Each module is a process of its own. `SOCKGUARD_*` variables hold for the guarded
side. What changed is run twice more on both sides, so that a busy machine is not taken for a change.

Exit status 0: nothing changed but what is expected, or it could not be run here, which is said
aloud; 1: something changed.
"""

import contextlib
import functools
import importlib
import json
import os
import subprocess
import sys
import tempfile
import unittest
from collections.abc import Callable
from pathlib import Path
from typing import Any

TOP = Path(__file__).resolve().parents[2]
MODULES = (
    *("test_streams", "test_server", "test_ssl", "test_sslproto", "test_buffered_proto", "test_sendfile"),
    *("test_events", "test_base_events", "test_selector_events", "test_unix_events", "test_pep492", "test_context"),
)
FUNCTIONS = ("start_server", "start_unix_server", "open_connection", "open_unix_connection")
METHODS = ("create_server", "create_connection")
N_CONFIRM = 2
TIMEOUT = 900
"""Seconds for one module."""

EXPECTED: dict[str, str] = {
    # Its handler deletes the writer and wants the warning of a StreamWriter's death, which Python 3.13 has brought.
    "test_unclosed_server_resource_warnings": "a writer is kept until its handler ends, to be closed with a drain then",
}
"""Part of a test's name -> why its outcome changes."""

Outcomes = dict[str, str]


# --- One side, in a process of its own ---

n_calls = [0]


def swap() -> None:
    """Puts our functions under the names of asyncio's."""
    import asyncio  # noqa: PLC0415 - the plain side has it from its tests alone

    from sockguard import aio  # noqa: PLC0415 - the plain side must not load it
    from sockguard._engine.current import shared_guard  # noqa: PLC0415

    shared_guard()  # some tests count threads, before and after
    for name in FUNCTIONS:
        ours = counted(getattr(aio, name))
        for module in (asyncio, asyncio.streams):
            setattr(module, name, ours)
    for name in METHODS:
        original = getattr(asyncio.BaseEventLoop, name)
        setattr(asyncio.BaseEventLoop, name, method(original, counted(getattr(aio, name))))


def counted(function: Callable[..., Any]) -> Callable[..., Any]:
    """Counts the calls of a function."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - whatever it takes
        n_calls[0] += 1
        return function(*args, **kwargs)

    return call


def method(original: Callable[..., Any], ours: Callable[..., Any]) -> Callable[..., Any]:
    """Makes a method of an event loop that calls our function, but where that calls the method itself."""

    @functools.wraps(original)
    async def call(loop: Any, factory: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        if getattr(factory, "__module__", "").startswith("sockguard."):
            return await original(loop, factory, *args, **kwargs)
        return await ours(factory, *args, **kwargs)

    return call


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


def run_side(side: str, module: str, path: str, names: list[str]) -> None:
    """Runs the tests of a module in this process and writes what came of them."""
    if side == "guarded":
        swap()
    tests = importlib.import_module(f"test.test_asyncio.{module}")
    loader, result = unittest.defaultTestLoader, _Result()
    suite = loader.loadTestsFromNames(names) if names else loader.loadTestsFromModule(tests)
    suite.run(result)
    Path(path).write_text(json.dumps([result.outcomes, n_calls[0]]), encoding="utf-8")


# --- Both sides ---


def outcomes_of(side: str, module: str, names: list[str]) -> tuple[Outcomes, int]:
    """Runs one side; gives the outcomes, and how often something was opened by a function of ours.

    Raises:
        RuntimeError: It came to no end.
    """
    with tempfile.TemporaryDirectory(prefix="asyncio-shim-") as folder:
        path = str(Path(folder) / "outcomes.json")
        command = [sys.executable, "-P", __file__, "--side", side, module, path, *names]
        done = subprocess.run(
            command,
            check=False,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT,
            env=_environment(side),
            cwd=folder,
        )
        try:
            outcomes, n_opened = json.loads(Path(path).read_text(encoding="utf-8"))
        except FileNotFoundError:
            msg = f"the {side} side ended with {done.returncode}: {done.stderr[-2000:]}"
            raise RuntimeError(msg) from None
    return outcomes, n_opened


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


def compare(module: str) -> int:
    """Runs both sides and prints what changed; gives the number of changes that nobody expects."""
    plain, _ = outcomes_of("plain", module, [])
    ours, n_opened = outcomes_of("guarded", module, [])
    found = changed(plain, ours)
    for _ in range(N_CONFIRM):
        if found:
            again = outcomes_of("plain", module, found)[0], outcomes_of("guarded", module, found)[0]
            found = [name for name in found if name in changed(*again)]
    unexpected = [name for name in found if not any(part in name for part in EXPECTED)]
    for name in found:
        reason = next((why for part, why in EXPECTED.items() if part in name), "")
        print(f"{name}: {plain.get(name)} -> {ours.get(name)} {reason}")
    n_passed = sum(outcome == "passed" for outcome in ours.values())
    print(
        f"{module}: {len(plain)} tests, {n_passed} pass guarded, {n_opened} calls of ours, changed {len(unexpected)}",
        flush=True,
    )
    return len(unexpected)


def why_not() -> str:
    """Says why it cannot be run here; "" if it can."""
    with contextlib.suppress(ImportError):
        importlib.import_module("test.test_asyncio.test_streams")
        command = [sys.executable, "-P", "-c", "import sockguard.aio"]
        done = subprocess.run(command, check=False, capture_output=True, text=True, env=_environment("guarded"))
        return done.stderr.strip().rpartition("\n")[2]
    return "this Python has no test.test_asyncio"


def main(words: list[str]) -> int:
    """Does what it was asked."""
    if words[:1] == ["--side"]:
        side, module, path, *names = words[1:]
        run_side(side, module, path, names)
        return 0
    if reason := why_not():
        print(f"SKIPPED: {reason}")
        return 0
    print(f"asyncio of {'.'.join(map(str, sys.version_info[:3]))}")
    return min(1, sum(compare(module) for module in words or MODULES))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
