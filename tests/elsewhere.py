"""Other systems, imitated in an interpreter on Linux: it lacks what Python has not got there.

Which names those are, typeshed knows (its stubs of the standard library, which come with
mypy). What is imitated is the absence of names, and Windows' one call that Python has no
name for (WINSOCK). How the kernels behave is Linux's, and stays to be tried there.
"""

import ast
import functools
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

__all__ = ["SYSTEMS", "on_each_system", "run_elsewhere"]

SYSTEMS = ("darwin", "win32")
MODULES = ("_socket", "socket", "select", "os", "signal", "time", "resource", "fcntl", "termios", "pwd", "grp")

WINSOCK = """
import ctypes, fcntl, termios, types
def ioctlsocket(sock, command, count, _ask=fcntl.ioctl, _fionread=termios.FIONREAD):
    assert command.value == 0x4004667F
    found = bytearray(4)
    _ask(sock.value, _fionread, found)
    count._obj.value = int.from_bytes(found, "little")
    return 0
ctypes.windll = types.SimpleNamespace(ws2_32=types.SimpleNamespace(ioctlsocket=ioctlsocket))
import sys
winapi = sys.modules["_winapi"] = types.ModuleType("_winapi")  # modules of Python's own import it there
winapi.__getattr__ = lambda name: 0
"""

BE_ELSEWHERE = """
import sys
for module, names in {missing!r}.items():
    if names is None:
        sys.modules[module] = None
    else:
        for name in names:
            vars(__import__(module)).pop(name, None)
sys.platform = {system!r}
"""

on_each_system = pytest.mark.parametrize("system", SYSTEMS)


@functools.cache
def missing_on(system: str) -> dict[str, list[str] | None]:
    """Lists, by module, the names that there are on Linux and not on that system; None for all."""
    missing: dict[str, list[str] | None] = {}
    for module in MODULES:
        there, here = names_of(module, system), names_of(module, "linux")
        missing[module] = sorted(here - there) if any(name.isupper() or name.islower() for name in there) else None
    return missing


def names_of(module: str, system: str) -> set[str]:
    """Lists the names of a module of the standard library on a system, as typeshed has them."""
    found = importlib.util.find_spec("mypy")
    if found is None or not found.submodule_search_locations:
        pytest.skip("needs mypy, whose stubs know what there is on which system")
    stubs = Path(found.submodule_search_locations[0]) / "typeshed" / "stdlib"
    path = next(p for p in (stubs / f"{module}.pyi", stubs / module / "__init__.pyi") if p.exists())
    facts = SimpleNamespace(platform=system, version_info=sys.version_info)
    return set(find_names(ast.parse(path.read_text("utf-8")).body, facts))


def find_names(body: list[ast.stmt], facts: SimpleNamespace) -> Iterator[str]:
    """Finds what is bound at the top of a stub, by the conditions that hold."""
    for node in body:
        if isinstance(node, ast.If):
            holds = eval(compile(ast.Expression(node.test), "stub", "eval"), {"sys": facts})
            yield from find_names(node.body if holds else node.orelse, facts)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id
        elif isinstance(node, ast.ImportFrom):
            yield from (alias.asname or "" for alias in node.names)


def run_elsewhere(system: str, code: str, *, first: str = "") -> subprocess.CompletedProcess[str]:
    """Runs code in an interpreter that has what that system has.

    Args:
        first: Runs before, while all of Linux is there: imports of the standard library.
    """
    prelude = (WINSOCK if system == "win32" else "") + first
    prelude += BE_ELSEWHERE.format(missing=missing_on(system), system=system)
    command = [sys.executable, "-P", "-c", prelude + code]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
