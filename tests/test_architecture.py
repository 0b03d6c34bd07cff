"""The shape of the package: rooms, arrows, allow-lists and sizes, read from the source by `ast`.

The rooms and why they are these: CONTRIBUTING.md. `inspect` is a function from sources to
findings, so the same code judges the package and, further down, sources that break each rule.
"""

import ast
import math
import statistics
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

TOP = Path(__file__).parent.parent

# Imports go from a higher number to a lower one, or stay within a room. `sockguard` itself
# is the list of public names.
RANK = {
    "errors": 0,
    "_core": 1,
    "_kernel": 2,
    "_engine": 3,
    "adapters": 4,
    "outputs": 4,
    "testing": 5,
    "_api": 5,
    "_process": 5,
    "patch": 6,
    "wrappers": 6,
    "aio": 6,
    "anyio": 6,
    "sockguard": 7,
    "cli": 8,
    "pytest_plugin": 8,
    "__main__": 9,
}
BLIND_TO_SIBLINGS = {"adapters", "outputs"}
DEEPEST = {"outputs": {"errors", "_core"}}
"""A room that may not use all that lies below it, and what it may use."""

PURE = {"dataclasses", "enum", "math", "typing", "collections"}
"""All that `_core` imports: no clock, socket, thread or log."""
RESERVED = {
    "ctypes": {"_kernel"},
    "fcntl": {"_kernel"},
    "struct": {"_kernel"},
    "threading": {"_engine"},
    "_thread": {"_engine"},
}
"""What only some rooms may import, from the standard library."""
THIRD_PARTY = {
    "adapters": {"anyio", "wrapt"},
    "cli": {"click", "rich"},
    "pytest_plugin": {"pytest"},
}
"""What a room may import at the top of a file."""
LATE_THIRD_PARTY = {"adapters", "outputs", "cli", "pytest_plugin"}
"""Where any package may be imported inside a function, so that it is needed by its users only."""

MAX_FUNCTION, MAX_NESTING, MAX_MODULE, MAX_METHODS = 40, 3, 300, 15
MAX_MEDIAN, MAX_P90 = 7, 20


class Finding(NamedTuple):
    """One breach: in which module or function, of which rule, and the number or name."""

    where: str
    rule: str
    detail: object = None


EXCEPTIONS = {
    ("sockguard._kernel.netns", "reserved: threading"): "setns() moves one thread, so it takes a thread of its own",
}
"""(where, rule): the reason. One that is no longer needed fails the last test."""


class Import(NamedTuple):
    """One module that is imported, and whether only when a function runs."""

    name: str
    late: bool


def inspect(sources: Mapping[str, str]) -> list[Finding]:
    """Lists the breaches in a package, given as a mapping from path to text."""
    paths = {path.removesuffix(".py").removesuffix("/__init__").replace("/", "."): path for path in sources}
    trees = {name: ast.parse(sources[path]) for name, path in paths.items()}
    found: list[Finding] = []
    arrows: dict[str, set[str]] = {}
    lengths: list[int] = []
    for name, tree in trees.items():
        text = sources[paths[name]]
        imports = list(find_imports(tree, trees))
        arrows[name] = {i.name for i in imports if i.name in trees}
        lengths += [n_lines for _, n_lines in functions(tree, text)]
        if paths[name].endswith("/__init__.py") and name != "sockguard" and text.strip():
            found.append(Finding(name, "__init__ is empty"))
        found += (Finding(name, rule) for i in imports for rule in judge_import(name, i))
        found += judge_sizes(name, tree, text)
    return [*found, *judge_whole(arrows, lengths)]


def find_imports(tree: ast.Module, modules: Mapping[str, object]) -> Iterator[Import]:
    """Finds all imports of a module, those inside functions too."""
    late = {id(n) for f in ast.walk(tree) if isinstance(f, ast.FunctionDef | ast.AsyncFunctionDef) for n in ast.walk(f)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, id(node) in late) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            module = "." * node.level + (node.module or "")
            yield from (Import(name if name in modules else module, id(node) in late) for name in sorted(names))


def room_of(module: str) -> str:
    """Names the room of a module of ours: the part after `sockguard`."""
    return module.split(".")[1] if "." in module else module


def corner_of(module: str) -> str:
    """Names the folder of a module within its room, or the module itself: the part after the room."""
    return ".".join(module.split(".")[1:3])


def judge_import(importer: str, imported: Import) -> list[str]:
    """Names the first rule that an import breaks, if any."""
    room, package = room_of(importer), imported.name.split(".")[0]
    is_ours = package == "sockguard"
    rules = [
        (room not in RANK, f"unknown room: {room}"),
        (not package, "imports are absolute"),
        (is_ours and not is_arrow_allowed(importer, imported.name), f"arrow: {imported.name}"),
        (room == "_core" and not is_ours and package not in PURE, f"pure: {package}"),
        (room not in RESERVED.get(package, {room}), f"reserved: {package}"),
        (not is_ours and not is_package_allowed(room, package, late=imported.late), f"third party: {package}"),
    ]
    return next(([rule] for is_broken, rule in rules if is_broken), [])


def is_arrow_allowed(importer: str, imported: str) -> bool:
    """Tells whether a module of ours may import another one."""
    here, there = room_of(importer), room_of(imported)
    if here == there:
        return here not in BLIND_TO_SIBLINGS or corner_of(importer) == corner_of(imported)
    return RANK.get(there, math.inf) < RANK.get(here, 0) and there in DEEPEST.get(here, {there})


def is_package_allowed(room: str, package: str, *, late: bool) -> bool:
    """Tells whether a room may import a package that is not ours."""
    if package in sys.stdlib_module_names or package in THIRD_PARTY.get(room, ()):
        return True
    return late and room in LATE_THIRD_PARTY


def judge_sizes(name: str, tree: ast.Module, text: str) -> Iterator[Finding]:
    """Finds what is too large: the module, its classes and its functions."""
    if (lines := len(text.splitlines())) > MAX_MODULE:
        yield Finding(name, "module too long", lines)
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            methods = sum(isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef) for n in node.body)
            if methods > MAX_METHODS:
                yield Finding(f"{name}.{node.name}", "too many methods", methods)
    for function, n_lines in functions(tree, text):
        if n_lines > MAX_FUNCTION:
            yield Finding(f"{name}.{function.name}", "function too long", n_lines)
        if (depth := nesting(function.body)) > MAX_NESTING:
            yield Finding(f"{name}.{function.name}", "nested too deeply", depth)


def functions(tree: ast.Module, text: str) -> Iterator[tuple[ast.FunctionDef | ast.AsyncFunctionDef, int]]:
    """Counts the code lines of each function: no blanks, comments or docstring; the `def` counts."""
    lines = ["", *text.splitlines()]
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0]
            doc = range(first.lineno, (first.end_lineno or 0) + 1) if ast.get_docstring(node) is not None else ()
            code = (lines[n].strip() for n in range(node.lineno, (node.end_lineno or 0) + 1) if n not in doc)
            yield node, sum(bool(line) and not line.startswith("#") for line in code)


def nesting(body: list[ast.stmt]) -> int:
    """Counts how deep blocks lie in blocks; an `elif` is no deeper than its `if`, and a nested function starts anew."""
    depths = [0]
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        chained = node.orelse if isinstance(node, ast.If) and [type(n) for n in node.orelse] == [ast.If] else []
        blocks = [*([] if chained else [getattr(node, "orelse", [])]), getattr(node, "body", [])]
        blocks += [getattr(node, "finalbody", []), *(part.body for part in getattr(node, "handlers", []))]
        blocks += [case.body for case in getattr(node, "cases", [])]
        depths += [1 + nesting(block) for block in blocks if block]
        depths.append(nesting(chained))
    return max(depths)


def judge_whole(arrows: Mapping[str, set[str]], lengths: list[int]) -> Iterator[Finding]:
    """Finds what only the whole package shows: import cycles, and functions that are long by habit."""
    remaining = dict(arrows)
    while free := [name for name, targets in remaining.items() if not targets & remaining.keys()]:
        for name in free:
            del remaining[name]
    if remaining:
        yield Finding("sockguard", "import cycle", sorted(remaining))
    if lengths and (median := statistics.median(lengths)) > MAX_MEDIAN:
        yield Finding("sockguard", "median of code lines per function", median)
    if lengths and (p90 := sorted(lengths)[math.ceil(0.9 * len(lengths)) - 1]) > MAX_P90:
        yield Finding("sockguard", "p90 of code lines per function", p90)


@pytest.fixture(scope="module")
def findings() -> list[Finding]:
    """All breaches in the package as it stands in this checkout."""
    return inspect({str(p.relative_to(TOP)): p.read_text("utf-8") for p in sorted(TOP.glob("sockguard/**/*.py"))})


def test_package_keeps_the_rules(findings):
    """No arrow points upwards, no cycle exists, each import is on its room's list, and nothing is too large."""
    assert [finding for finding in findings if finding[:2] not in EXCEPTIONS] == []


def test_every_exception_is_still_needed(findings):
    """An exception that excuses nothing any more is taken out of the list."""
    assert set(EXCEPTIONS) - {finding[:2] for finding in findings} == set()


def test_every_room_exists_or_is_planned():
    """The checker sees the package: the rooms that it walks include those that hold the code."""
    rooms = {path.name.removesuffix(".py") for path in TOP.glob("sockguard/*")}
    assert {"errors", "_core", "_kernel", "_api", "cli", "outputs"} <= rooms & set(RANK)


def block(*lines: str) -> str:
    """Makes a function of these lines, each one level deeper than the line before."""
    return "def f():\n" + "\n".join("    " * (depth + 1) + line for depth, line in enumerate(lines))


DEEP = block("for a in b:", "if a:", "with a:", "pass")
CHAIN = "def f():\n    if a: pass\n" + "    elif a: pass\n" * 4 + "    else: pass"
LONG = "def f():\n    # remark\n\n" + "    a = 1\n" * 39


@pytest.mark.parametrize(
    ("path", "source", "rule"),
    [
        ("_core/a.py", "import sockguard._kernel.b", "arrow: sockguard._kernel.b"),
        ("_core/a.py", "from sockguard._kernel import b", "arrow: sockguard._kernel.b"),
        ("_core/a.py", "def f():\n    from sockguard._kernel.b import c", "arrow: sockguard._kernel.b"),
        ("errors.py", "import sockguard._core", "arrow: sockguard._core"),
        ("_kernel/a.py", "import sockguard", "arrow: sockguard"),
        ("outputs/a.py", "import sockguard._kernel.b", "arrow: sockguard._kernel.b"),
        ("outputs/a.py", "import sockguard.outputs.b", "arrow: sockguard.outputs.b"),
        ("adapters/a.py", "import sockguard.outputs.b", "arrow: sockguard.outputs.b"),
        ("adapters/a.py", "import sockguard.adapters.b", "arrow: sockguard.adapters.b"),
        ("adapters/a/b.py", "import sockguard.adapters.c.d", "arrow: sockguard.adapters.c.d"),
        ("cli/a.py", "import sockguard.pytest_plugin", "arrow: sockguard.pytest_plugin"),
        ("_kernel/a.py", "from . import b", "imports are absolute"),
        ("_kernel/a.py", "from .b import c", "imports are absolute"),
        ("closet/a.py", "import os", "unknown room: closet"),
        ("cli/a.py", "import sockguard.closet", "arrow: sockguard.closet"),
        ("_core/a.py", "import time", "pure: time"),
        ("_core/a.py", "def f():\n    from socket import socket", "pure: socket"),
        ("cli/a.py", "import struct", "reserved: struct"),
        ("_engine/a.py", "def f():\n    import ctypes", "reserved: ctypes"),
        ("outputs/a.py", "import threading", "reserved: threading"),
        ("outputs/a.py", "import prometheus_client", "third party: prometheus_client"),
        ("_kernel/a.py", "def f():\n    import psutil", "third party: psutil"),
        ("cli/a.py", "import structlog", "third party: structlog"),
        ("cli/__init__.py", "import os", "__init__ is empty"),
        ("cli/a.py", "\n" * 301, "module too long"),
        ("cli/a.py", "class A:\n" + "    def f(self): ...\n" * 16, "too many methods"),
        ("cli/a.py", LONG + "    a = 2", "function too long"),
        ("cli/a.py", DEEP.replace("pass", "while a: pass"), "nested too deeply"),
        ("cli/a.py", DEEP.replace("pass", "try: pass\n                finally: pass"), "nested too deeply"),
        ("cli/a.py", "def f():\n" + "    a = 1\n" * 7, "median of code lines per function"),
        ("cli/a.py", "def f(): ...\n" * 8 + ("def f():\n" + "    a = 1\n" * 20) * 2, "p90 of code lines per function"),
    ],
)
def test_a_breach_is_found(path, source, rule):
    """Each rule is alive: a source that breaks it is found, by that rule and where it lies."""
    assert rule in {finding.rule for finding in inspect({f"sockguard/{path}": source, "sockguard/_kernel/b.py": ""})}


def test_a_late_import_closes_a_cycle_too():
    """Two modules of one room that import each other are a cycle, though one does so inside a function."""
    pair = {
        "sockguard/_core/a.py": "import sockguard._core.b",
        "sockguard/_core/b.py": "def f():\n    from sockguard._core import a",
    }
    assert inspect(pair) == [Finding("sockguard", "import cycle", ["sockguard._core.a", "sockguard._core.b"])]


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("_core/a.py", "from collections.abc import Mapping\nimport sockguard.errors"),
        ("_kernel/a.py", "import struct\nfrom sockguard._core import b"),
        ("adapters/a/b.py", "import sockguard.adapters.a.c"),
        ("outputs/a.py", "def f():\n    import prometheus_client"),
        ("cli/a.py", "import click\nimport sockguard\nfrom sockguard._kernel.b import c"),
        ("cli/a.py", DEEP),
        ("cli/a.py", CHAIN),
        ("cli/a.py", '"""One line."""\n' * 300),
        ("cli/a.py", "def f():\n    '''Doc.\n\n" + "    more\n" * 50 + "    '''\n    return 1"),
        ("cli/a.py", LONG + "def g(): ...\n" * 9),
    ],
)
def test_what_the_rules_allow_is_not_found(path, source):
    """What lies at a limit, or is allowed in its room, passes."""
    assert inspect({f"sockguard/{path}": source}) == []
