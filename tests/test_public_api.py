"""What a program gets by `import sockguard`, and what it costs."""

import inspect
import os
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

import sockguard

CHECKOUT = Path(__file__).parent.parent

PUBLIC = [
    "Cause",
    "Guard",
    "GuardedConnection",
    "GuardedSelector",
    "GuardedServerMixin",
    "GuardedSocket",
    "Heartbeat",
    "InternalError",
    "Keepalive",
    "KernelUnavailable",
    "Leak",
    "Policy",
    "PolicyError",
    "SocketLeakError",
    "SockguardError",
    "UsageError",
    "__version__",
    "create_server",
    "find_leaks",
    "guard_socket",
    "install",
    "no_socket_leaks",
    "register",
    "uninstall",
    "unregister",
]


def run(code: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Runs code in a fresh interpreter that sees neither PYTHON* variables nor the working directory."""
    return subprocess.run([sys.executable, "-I", *options, "-c", code], capture_output=True, text=True, check=False)


def test_the_intended_copy_is_tested():
    """The tests import the installed wheel where .ci/run says so, and this checkout everywhere else."""
    is_checkout = Path(sockguard.__file__).is_relative_to(CHECKOUT)
    assert is_checkout == (os.environ.get("SOCKGUARD_TEST_INSTALLED") != "1")


def test_exports_exactly_the_public_names():
    """A name comes or goes on purpose only, and there are at most 25."""
    assert sorted(sockguard.__all__) == PUBLIC
    assert len(PUBLIC) <= 25


@pytest.mark.parametrize("name", [name for name in PUBLIC if name != "__version__"])
def test_public_name_has_a_docstring_of_its_own(name):
    """`help()` explains each public name, and in words that were written for it."""
    documented = getattr(sockguard, name)
    written = inspect.getsource(documented).split('"""')[1]
    assert inspect.getdoc(documented) == inspect.cleandoc(written).strip() != ""


def test_version_is_that_of_the_distribution():
    """`__version__` and the metadata of the package agree."""
    outcome = run("import importlib.metadata as m, sockguard as s; print(s.__version__, m.version('sockguard'))")
    assert outcome.stdout == f"{sockguard.__version__} {sockguard.__version__}\n"


def test_import_loads_nothing_heavy():
    """No framework, TLS, FFI or optional package is loaded before the program asks for it."""
    heavy = {"anyio", "asyncio", "click", "ctypes", "logging", "rich", "ssl", "structlog", "subprocess", "wrapt"}
    outcome = run(f"import sys, sockguard; print(sorted({heavy} & set(sys.modules)))")
    assert (outcome.stdout, outcome.stderr) == ("[]\n", "")


def test_import_is_silent_with_warnings_as_errors():
    """The import warns of nothing and prints nothing, in development mode too."""
    outcome = run("import sockguard", "-X", "dev", "-W", "error")
    assert (outcome.returncode, outcome.stdout, outcome.stderr) == (0, "", "")


def test_works_without_any_other_package():
    """Import and a look for leaks need the standard library only."""
    outcome = run(
        "import sys\n"
        "class Block:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] not in {*sys.stdlib_module_names, 'sockguard'}:\n"
        "            raise ImportError(name)\n"
        "sys.meta_path.insert(0, Block())\n"
        "import sockguard\n"
        "print(sockguard.find_leaks())"
    )
    assert (outcome.returncode, outcome.stdout, outcome.stderr) == (0, "[]\n", "")


@pytest.mark.slow
def test_import_costs_less_than_that_of_asyncio(tmp_path, record_property):
    """`import sockguard` is cheaper than `import asyncio`: medians of nine, in turns, in fresh interpreters."""
    code = "import time; t = time.perf_counter(); import {}; print(time.perf_counter() - t)"
    bytecode = ("-X", f"pycache_prefix={tmp_path}")  # written by the first round, and there for all the others
    seconds = {"sockguard": [], "asyncio": []}
    for _ in range(9):
        for name, measured in seconds.items():
            measured.append(float(run(code.format(name), *bytecode).stdout))
    ratio = statistics.median(seconds["sockguard"]) / statistics.median(seconds["asyncio"])
    record_property("import_cost_of_asyncio", ratio)
    assert ratio <= 1.0


def test_command_without_click_names_the_remedy():
    """`python -m sockguard` without the extra says in one line what to install, and exits with 2."""
    outcome = run(
        "import runpy, sys\n"
        "sys.modules['click'] = None\n"
        "sys.argv = ['sockguard', 'report']\n"
        "runpy.run_module('sockguard', run_name='__main__', alter_sys=True)"
    )
    assert (outcome.returncode, outcome.stdout, outcome.stderr.count("\n")) == (2, "", 1)
    assert "pip install 'sockguard[cli]'" in outcome.stderr
