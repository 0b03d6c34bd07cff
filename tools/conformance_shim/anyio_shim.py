#!/usr/bin/env python3
"""anyio's own socket tests, plain and with sockguard's listeners and streams in their place: no outcome may change.

    tools/conformance_shim/anyio_shim.py [--venv DIR] [--keep] [PYTEST WORDS...]

Run it with an interpreter that has anyio installed (`.venv/bin/python`): the tests are those of
that version, from its source distribution. They run in an environment of their own, as they need
packages that sockguard's tests do not. `SOCKGUARD_*` variables hold for the guarded run, so
`SOCKGUARD_BACKEND=portable` tries the way of other systems. What changed is run twice more on
both sides, so that a busy machine is not taken for a change.

Exit status 0: nothing changed but what is expected, or it could not be run here, which is said
aloud; 1: something changed.

This file is also the pytest plugin that does the swap: names in the modules of the tests.
"""

import argparse
import contextlib
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

TOP = Path(__file__).resolve().parents[2]
FILES = ("tests/test_sockets.py", "tests/streams/test_tls.py")
NEEDED = ("pytest>=9", "pytest-mock", "pytest-timeout", "trustme", "truststore", "psutil", "hypothesis", "blockbuster")
SWAP, OUTCOMES = "ANYIO_SHIM_SWAP", "ANYIO_SHIM_OUTCOMES"
"""Variables for the plugin: whether to swap, and where to write what came of each test."""
N_CONFIRM = 2

EXPECTED: dict[str, str] = {}
"""Part of a test's name -> why its outcome changes."""


# --- The plugin, in the process of the tests ---

_outcomes: dict[str, str] = {}
_swapped: list[str] = []


def pytest_collection_modifyitems(items: list[Any]) -> None:
    """Puts the guarded functions under the names that the tests use."""
    if not os.environ.get(SWAP):
        return
    import sockguard.anyio as guarded  # noqa: PLC0415 - the plain side must not load it

    for module in {item.module for item in items}:
        for name in ("connect_tcp", "create_tcp_listener"):
            if hasattr(module, name):
                setattr(module, name, getattr(guarded, name))
                _swapped.append(name)


def pytest_runtest_logreport(report: Any) -> None:  # noqa: ANN401 - pytest is not installed where this is started
    """Takes down the worst outcome of a test's phases."""
    if report.when == "call" or report.outcome != "passed":
        _outcomes[report.nodeid] = "error" if report.when != "call" and report.failed else report.outcome


def pytest_sessionfinish() -> None:
    """Hands the outcomes over."""
    if path := os.environ.get(OUTCOMES):
        Path(path).write_text(json.dumps([_outcomes, _swapped]), encoding="utf-8")


# --- The program ---


class Skipped(Exception):
    """Is raised where this cannot be run; the text says why."""


def main() -> int:
    """Runs both sides and compares them."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--venv", type=Path, help="make the environment here, or use the one that is there")
    parser.add_argument("words", nargs="*", help="for pytest: other tests, -k NAME")
    asked, words = parser.parse_known_args()
    words = asked.words + words
    try:
        with tempfile.TemporaryDirectory(prefix="anyio-shim-") as folder:
            version = installed_version()
            sources = fetch_tests(version, Path(folder))
            python = prepare(asked.venv or Path(folder) / "venv", version)
            return compare(python, sources, words)
    except Skipped as why:
        print(f"SKIPPED: {why}")
        return 0


def installed_version() -> str:
    """Tells the version of anyio."""
    try:
        return importlib.metadata.version("anyio")
    except importlib.metadata.PackageNotFoundError:
        msg = f"{sys.executable} has no anyio"
        raise Skipped(msg) from None


def fetch_tests(version: str, folder: Path) -> Path:
    """Gets the source distribution and unpacks it."""
    words = ["pip", "download", "--quiet", "--no-deps", "--no-binary", "anyio", f"anyio=={version}"]
    run([sys.executable, "-m", *words, "--dest", str(folder)], "the source distribution of anyio")
    (archive,) = folder.glob("anyio-*.tar.gz")
    run(["tar", "--extract", "--gzip", "--file", str(archive), "--directory", str(folder)], "unpacking it")
    return folder / f"anyio-{version}"


def prepare(venv: Path, version: str) -> Path:
    """Makes an environment with the same anyio, this sockguard, and what anyio's tests need."""
    python = venv / "bin" / "python"
    if not python.exists():
        run([sys.executable, "-m", "venv", str(venv)], "an environment")
    backends = [f"{name}=={importlib.metadata.version(name)}" for name in ("trio", "uvloop") if is_installed(name)]
    wanted = [f"anyio=={version}", *backends, *NEEDED, "-e", str(TOP)]
    run([str(python), "-m", "pip", "install", "--quiet", *wanted], "the packages of anyio's tests")
    return python


def is_installed(name: str) -> bool:
    """Tells whether a package is installed beside anyio."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return bool(importlib.metadata.version(name))
    return False


def run(command: list[str], what: str) -> None:
    """Runs a command, without which nothing can be compared."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        msg = f"{what} cannot be had here: {done.stderr.strip().splitlines()[-1:]}"
        raise Skipped(msg)


def compare(python: Path, sources: Path, words: list[str]) -> int:
    """Compares the outcomes of all tests, and tells what changed."""
    plain, guarded = (outcomes(python, sources, words, is_guarded=side) for side in (False, True))
    changed = [name for name in sorted(plain | guarded) if plain.get(name) != guarded.get(name)]
    for _ in range(N_CONFIRM):
        changed = list(confirmed(python, sources, changed))
    unexpected = [name for name in changed if not any(part in name for part in EXPECTED)]
    for name in changed:
        why = next((reason for part, reason in EXPECTED.items() if part in name), "NOT EXPECTED")
        print(f"changed: {name}: {plain.get(name)} -> {guarded.get(name)}: {why}")
    counts = {outcome: list(guarded.values()).count(outcome) for outcome in sorted(set(guarded.values()))}
    print(
        f"{len(guarded)} tests with sockguard: {counts}; {len(changed)} changed, {len(unexpected)} of them unexpectedly"
    )
    return 1 if unexpected or not guarded else 0


def confirmed(python: Path, sources: Path, changed: list[str]) -> Iterator[str]:
    """Runs the tests that changed once more, and gives those that change again."""
    if not changed:
        return
    plain, guarded = (outcomes(python, sources, changed, is_guarded=side) for side in (False, True))
    yield from (name for name in changed if plain.get(name) != guarded.get(name))


def outcomes(python: Path, sources: Path, words: list[str], *, is_guarded: bool) -> dict[str, str]:
    """Runs the tests on one side, and gives what came of each."""
    named = any(word.startswith("tests/") for word in words)
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), OUTCOMES: file.name}
        environment |= {SWAP: "1"} if is_guarded else {}
        command = [str(python), "-m", "pytest", "-q", "-p", "anyio_shim", "-m", "not network"]
        command += [*([] if named else FILES), *words]
        print(f"-- {'guarded' if is_guarded else 'plain'}: {len(words) if named else 'all'} tests", flush=True)
        subprocess.run(command, cwd=sources, env=environment, check=False)
        found, swapped = json.loads(Path(file.name).read_text(encoding="utf-8") or "[{}, []]")
    if bool(swapped) != is_guarded:
        raise RuntimeError("the plugin has not swapped what it should have")
    of_test: dict[str, str] = found
    return of_test


if __name__ == "__main__":
    sys.exit(main())
