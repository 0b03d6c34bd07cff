"""Where there is no Linux: everything imports, and one clear error says what is missing."""

import subprocess
import sys

AS_ELSEWHERE = """
import errno, os, select, socket, sys
for module, names in {
    select: ["poll", "epoll", "POLLRDHUP"],
    socket: ["AF_NETLINK", "AF_UNIX", "SOCK_CLOEXEC", "SOCK_NONBLOCK", "TCP_INFO"],
    os: ["fork", "pidfd_open", "getxattr", "O_DIRECTORY"],
}.items():
    for name in names:
        if hasattr(module, name):
            delattr(module, name)
sys.platform = "darwin"
sys.modules["resource"] = None
"""


def run_elsewhere(code: str) -> subprocess.CompletedProcess[str]:
    """Runs code in an interpreter that lacks what only Linux has."""
    return subprocess.run(
        [sys.executable, "-P", "-c", AS_ELSEWHERE + code], capture_output=True, text=True, timeout=60, check=False
    )


def test_every_module_imports_without_linux():
    """No import fails on macOS or Windows, not even of the rooms that only serve Linux."""
    done = run_elsewhere("""
import importlib, pkgutil
import sockguard
names = [m.name for m in pkgutil.walk_packages(sockguard.__path__, "sockguard.")
         if not m.name.startswith("sockguard.cli.") and m.name != "sockguard.__main__"]
assert "sockguard._kernel.own_fds" in names
for name in names:
    importlib.import_module(name)
print(len(names))
""")
    assert done.stderr == ""
    assert int(done.stdout) > 15


def test_finding_leaks_elsewhere_is_one_clear_error():
    """`find_leaks()` names the system, and what to do, in one exception of ours."""
    done = run_elsewhere("""
import sockguard
try:
    sockguard.find_leaks()
except sockguard.KernelUnavailable as error:
    print(error)
""")
    assert done.stdout == (
        "finding leaks is not available: darwin is not Linux. Run it on the Linux host of the server.\n"
    )


def test_report_elsewhere_is_one_line_and_status_2():
    """The command says the same on stderr, without a traceback."""
    done = run_elsewhere("""
from sockguard.cli.main import run
run(["report"])
""")
    assert done.returncode == 2
    assert done.stderr.startswith("sockguard: looking at processes is not available: darwin is not Linux.")
    assert done.stderr.count("\n") == 1
