"""A real configuration of pytest, and real tests that were collected, in this process: for tests of one module."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from _pytest.config import _prepareconfig

from pytest_plugin.suite import PLUGIN

__all__ = ["collected", "configured"]

ALONE = (
    "-p",
    "no:cacheprovider",
    "-p",
    "no:randomly",
    "-p",
    "no:xdist",
    "-p",
    "no:terminal",
    "-p",
    "no:faulthandler",
    "-p",
    "no:asyncio",
)


@contextlib.contextmanager
def configured(folder: Path, *options: str, ini: str = "") -> Iterator[pytest.Config]:
    """Reads options and an ini file, as `pytest` does before it runs anything.

    Args:
        folder: Where the ini file is written.
        options: Words of the command line.
        ini: Lines of the ini file.
    """
    path = folder / "pytest.ini"
    path.write_text(f"[pytest]\n{ini}", encoding="utf-8")
    addopts = os.environ.pop("PYTEST_ADDOPTS", None)
    try:
        config = _prepareconfig(["-c", str(path), f"--rootdir={folder}", *ALONE, *PLUGIN, *options, str(folder)])
    finally:
        if addopts is not None:
            os.environ["PYTEST_ADDOPTS"] = addopts
    try:
        yield config
    finally:
        config._ensure_unconfigure()  # noqa: SLF001 - there is no public way to end what was never begun


class _Catches:
    """Keeps what was collected, and does something with it while it is there."""

    def __init__(self, do: object) -> None:
        self._do = do
        self.done: list[object] = []

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Is called when all tests are known."""
        self.done.append(self._do({item.name: item for item in session.items}))


def collected(folder: Path, text: str, do: object) -> object:
    """Collects a file of tests, and gives what a function returns when it is called with them by name.

    Args:
        folder: One of this test only: its name is that of the file, as a module of one name is imported once.
        text: The tests.
        do: The function.
    """
    (folder / "pytest.ini").write_text("[pytest]\n")
    (folder / f"{folder.name}.py").write_text(text)
    catches = _Catches(do)
    words = ["-c", str(folder / "pytest.ini"), *ALONE, *PLUGIN, "--import-mode=importlib", "--collect-only"]
    pytest.main([*words, f"--rootdir={folder}", str(folder / f"{folder.name}.py")], plugins=[catches])
    [result] = catches.done
    return result
