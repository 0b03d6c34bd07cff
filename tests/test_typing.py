"""What type checkers and `help()` tell users: tests/typing/api.py and the examples are checked like anybody's code."""

import ast
import asyncio
import builtins
import inspect
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import sockguard
from sockguard import aio

anyio = pytest.importorskip("sockguard.anyio")

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.one_python
API = Path(__file__).parent / "typing" / "api.py"
FILES = (API, *sorted((ROOT / "docs" / "examples").glob("*.py")))
MODULES = {"sockguard": sockguard, "sockguard.aio": aio, "sockguard.anyio": anyio}
NAMES = [f"{module}.{name}" for module, found in MODULES.items() for name in found.__all__ if name != "__version__"]
WRONG = ("assert_type(sock.recv(10), bytes)", "assert_type(sock.recv(10), str)")
"""A line of api.py, and what a checker must object to."""


# --- Checkers ---


def run(folder: Path, *words: object) -> subprocess.CompletedProcess[str]:
    """Runs a module of this Python in a folder, where no configuration of ours is seen."""
    return subprocess.run(
        [sys.executable, "-P", "-m", *map(str, words)],
        cwd=folder, capture_output=True, text=True, timeout=550, check=False,
    )  # fmt: skip


def copies(folder: Path, *, is_wrong: bool) -> list[Path]:
    """Copies what is checked into a folder; all of it, or an api.py with a mistake."""
    if not is_wrong:
        return [Path(shutil.copy(file, folder)) for file in FILES]
    text = API.read_text()
    assert text.count(WRONG[0]) == 1
    folder.joinpath("api.py").write_text(text.replace(*WRONG))
    return [folder / "api.py"]


@pytest.mark.slow
@pytest.mark.parametrize("is_wrong", [False, True], ids=["as it is", "with a mistake"])
def test_mypy_agrees(is_wrong, tmp_path, pytestconfig):
    """`mypy --strict` has nothing against users' code, and sees a type that is not what it is said to be."""
    pytest.importorskip("mypy")
    cache = pytestconfig.cache.mkdir("mypy")  # kept from run to run: the first takes half a minute
    done = run(tmp_path, "mypy", "--strict", "--cache-dir", cache, *copies(tmp_path, is_wrong=is_wrong))
    if is_wrong:
        assert "[assert-type]\nFound 1 error in 1 file" in done.stdout
    else:
        assert (done.returncode, done.stdout) == (0, f"Success: no issues found in {len(FILES)} source files\n")


@pytest.mark.slow
@pytest.mark.parametrize("function", ["start_server", "create_server", "create_connection", "open_connection"])
def test_mypy_sees_a_misspelt_option(function, tmp_path, pytestconfig):
    """A name that asyncio does not take is an error of types, before the program runs and asyncio refuses it."""
    pytest.importorskip("mypy")
    call = f"from sockguard import aio\n\nasync def use() -> None:\n    await aio.{function}(print, port=1, flagz=0)\n"
    (tmp_path / "misspelt.py").write_text(call)
    done = run(tmp_path, "mypy", "--strict", "--cache-dir", pytestconfig.cache.mkdir("mypy"), "misspelt.py")
    assert f'Unexpected keyword argument "flagz" for "{function}"' in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("is_wrong", [False, True], ids=["as it is", "with a mistake"])
def test_pyright_agrees(is_wrong, tmp_path):
    """Pyright in its strict mode has nothing against users' code either, and sees the same mistake."""
    pytest.importorskip("pyright")
    version = run(tmp_path, "pyright", "--version")
    if version.returncode:
        pytest.skip(f"pyright cannot be run here, so it was not asked: {version.stderr.strip()[-200:]}")
    copies(tmp_path, is_wrong=is_wrong)
    (tmp_path / "pyrightconfig.json").write_text(json.dumps({"typeCheckingMode": "strict"}))
    done = run(tmp_path, "pyright", "--pythonpath", sys.executable, "--outputjson")
    found = json.loads(done.stdout)
    rules = [problem["rule"] for problem in found["generalDiagnostics"]]
    assert rules == (["reportAssertTypeFailure"] if is_wrong else []), found["generalDiagnostics"]
    assert found["summary"]["filesAnalyzed"] == (1 if is_wrong else len(FILES))


def test_every_public_name_is_used():
    """api.py shows each public name in use."""
    aliases = {"aio": "sockguard.aio"}
    used = set()
    for node in ast.walk(ast.parse(API.read_text())):
        if isinstance(node, ast.ImportFrom):
            used |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Attribute):
            head, _, rest = ast.unparse(node).partition(".")
            used.add(f"{aliases.get(head, head)}.{rest}")
    assert [name for name in NAMES if name not in used] == []


# --- Docstrings ---


def named(name: str) -> Any:
    """Finds what a public name stands for."""
    module, _, last = name.rpartition(".")
    return getattr(MODULES[module], last)


def documented() -> Iterator[tuple[str, Any]]:
    """Yields what users can call or read: public names, and the public methods and properties of classes of ours."""
    for name in NAMES:
        thing = named(name)
        yield name, thing
        for kind in thing.__mro__ if inspect.isclass(thing) else ():
            if kind.__module__.startswith("sockguard"):
                yield from ((f"{name}.{own}", member) for own, member in vars(kind).items() if own[0] != "_")


def function_of(thing: Any) -> Any:
    """Gives the function behind a method or property; None if there is none."""
    found = getattr(thing, "fget", None) or getattr(thing, "func", None) or getattr(thing, "__func__", thing)
    return found if inspect.isfunction(found) else None


FUNCTIONS = {name: function for name, thing in documented() if (function := function_of(thing)) is not None}
SECTION = r"^{}:\n((?:[ ]+.*\n?|\n)+)"


def section(doc: str, title: str) -> list[str]:
    """Lists what a section of a docstring describes."""
    found = re.search(SECTION.format(title), doc, re.MULTILINE)
    return re.findall(r"^ {4}\**(\w+):", found[1], re.MULTILINE) if found else []


def doc_of(name: str) -> str:
    """Gives a function's docstring, and for what makes an object that of its class, which describes its arguments."""
    owner, _, last = name.rpartition(".")
    function = FUNCTIONS.get(name)
    return inspect.getdoc(function if function is not None else named(f"{owner}.{last}")) or ""


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_explained_in_words_of_its_own(name):
    """Each public name has a docstring that was written for it, and whose first line is a sentence."""
    thing = named(name)
    written = inspect.cleandoc(inspect.getsource(thing).split('"""')[1]).strip()
    assert inspect.getdoc(thing) == written
    assert written.partition("\n")[0].endswith((".", ":"))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_is_explained(name):
    """Each function, method and property says what it does; what it names as arguments and errors exists."""
    doc = doc_of(name)
    assert doc.partition("\n")[0].endswith(".")
    assert set(section(doc, "Args")) <= set(inspect.signature(FUNCTIONS[name]).parameters)
    for error in section(doc, "Raises"):
        assert issubclass(getattr(builtins, error, None) or getattr(sockguard, error), BaseException)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_spans_have_a_unit(name):
    """Where a function takes a number that is not whole, its name or its docstring says: of seconds."""
    parameters = inspect.signature(FUNCTIONS[name]).parameters.values()
    numbers = {one.name for one in parameters if "float" in str(one.annotation)} - {"now", "timeout"}
    assert not numbers - {"seconds"} or re.search("[Ss]econds", doc_of(name))


WITH_POLICY = [
    name
    for name in NAMES
    if not (inspect.isclass(named(name)) and issubclass(named(name), BaseException))
    and name != "sockguard.Guard"  # made by install()
    and "policy" in inspect.signature(named(name)).parameters
    and name != "sockguard.anyio.GuardedListener"  # made by create_tcp_listener()
]


@pytest.mark.parametrize("name", WITH_POLICY)
def test_what_is_no_policy_is_refused_as_documented(name):
    """Whatever takes a policy describes it, refuses what is none with a UsageError, and says so."""
    thing = named(name)
    needed = [one for one in inspect.signature(thing).parameters.values() if one.default is one.empty]
    arguments = [None for one in needed if one.kind is one.POSITIONAL_OR_KEYWORD]

    async def use() -> None:
        outcome = thing(*arguments, policy=3)
        if inspect.isawaitable(outcome):
            await outcome

    with pytest.raises(sockguard.UsageError, match=r"policy=3 is no sockguard\.Policy"):
        asyncio.run(use())
    doc = inspect.getdoc(thing) or ""
    assert "UsageError" in section(doc, "Raises")
    assert "policy" in section(doc, "Args") or re.search(r"see `start_\w+`", doc) or "as `anyio" in doc
