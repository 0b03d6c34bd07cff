"""How is a policy read from a file? `[tool.sockguard]` of a pyproject.toml, or a TOML file of its own."""

import os
import tomllib
from typing import Any

from sockguard._core.policy import Layer, mapping_layer
from sockguard.errors import PolicyError, UsageError

__all__ = ["read_policy_file"]

TABLE = "[tool.sockguard]"


def read_policy_file(path: str) -> Layer:
    """Reads the fields that a file sets, as a layer whose errors name the file.

    They stand in the table `[tool.sockguard]`. A file that has none is all policy, unless
    it is a pyproject.toml.

    Raises:
        UsageError: The file cannot be read, or is no TOML, or a field or a value makes no sense; the message has path,
            line and remedy.
    """
    text = _read(path)
    try:
        table = _table_of(path, tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        msg = f"{path}: {error}: this is no TOML; check quotes, brackets and commas there"
        raise UsageError(msg) from None
    try:
        return mapping_layer(table, path)
    except PolicyError as error:
        line = _line_of(error.field, text)
        source = f"{path}, line {line}" if line else path
        raise PolicyError(error.field, error.value, error.remedy, source) from None


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except OSError as error:
        msg = f"{path}: {error.strerror}; give the path of a TOML file that can be read"
        raise UsageError(msg) from None
    except UnicodeDecodeError as error:
        msg = f"{path}: byte {error.start} is not UTF-8; TOML files are, so save it as UTF-8"
        raise UsageError(msg) from None


def _table_of(path: str, document: dict[str, Any]) -> Any:  # noqa: ANN401 - what stands there may be no table
    tool = document.get("tool")
    if isinstance(tool, dict) and "sockguard" in tool:
        return tool["sockguard"]
    if os.path.basename(path) != "pyproject.toml":
        return document
    msg = f"{path}: there is no table {TABLE}; add it, with lines such as: fin_timeout = 2"
    raise UsageError(msg)


def _line_of(field: str, text: str) -> int | None:
    """Finds the line of a field, as the parser keeps none; None where it is written in some unusual way.

    A field of a nested table may have a line of its own or stand in the line of its table.
    """
    lines = text.splitlines()
    headers = [n for n, line in enumerate(lines) if line.strip().startswith(TABLE[:-1])]
    keys = {n: line.partition("=")[0].strip() for n, line in enumerate(lines, 1) if n > min(headers, default=0)}
    for name in (field, field.rpartition(".")[2], field.partition(".")[0]):
        found = [n for n, key in keys.items() if key == name]
        if found:
            return found[0]
    return None
