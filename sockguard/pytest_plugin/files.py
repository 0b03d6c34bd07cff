"""The files that are written at the end. Tried at the beginning, so that nobody waits for a run that was in vain."""

import json
import os
from typing import IO, Any

import pytest

__all__ = ["try_out", "write"]


def try_out(path: str) -> None:
    """Makes the folder of a file, and opens the file without changing it.

    Raises:
        pytest.UsageError: It cannot be written.
    """
    is_new = not os.path.lexists(path)
    try:
        _open(path, "a").close()
        if is_new:
            os.unlink(path)  # an empty file would be taken for one that was written
    except OSError as error:
        raise pytest.UsageError(_complaint(path, error)) from error


def write(path: str, content: dict[str, Any]) -> str:
    """Writes a file; gives the reason where that cannot be, as an error would lose what the run has told."""
    try:
        with _open(path, "w") as file:
            json.dump(content, file, indent=1)
            file.write("\n")
    except OSError as error:
        return _complaint(path, error)
    return ""


def _open(path: str, mode: str) -> IO[str]:
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    return open(path, mode, encoding="utf-8")


def _complaint(path: str, error: OSError) -> str:
    return f"socket leaks cannot be written to {path} ({error}): name a file that can be"
