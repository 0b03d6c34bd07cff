"""Runs `sockguard ARGUMENTS` as the user nobody, without any group or capability.

The interpreter may lie where nobody can read (below root's home), so everything is imported
first and the rights are dropped after that.
"""

import codecs
import contextlib
import ctypes
import importlib
import io
import os
import pkgutil
import termios  # noqa: F401 - sockguard imports it late

from rich.console import Console
from rich.table import Table

import sockguard
from sockguard.__main__ import main

NOBODY = 65534
PR_SET_DUMPABLE = 4

for module in pkgutil.walk_packages(sockguard.__path__, "sockguard."):
    if not module.name.endswith((".__main__", "pytest_plugin")):
        with contextlib.suppress(ImportError):  # an optional package
            importlib.import_module(module.name)
# rich imports late, a table of widths for what is not ASCII among it
Console(file=io.StringIO(), force_terminal=True).print(Table("a", "b"), "[red]c", "d" * 300, "\u6f22")
for encoding in ("ascii", "idna", "latin-1", "utf-8"):
    codecs.lookup(encoding)  # imports a module at first use

os.setgroups([])
os.setresgid(NOBODY, NOBODY, NOBODY)
os.setresuid(NOBODY, NOBODY, NOBODY)
ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 1)  # as after an exec; else not even our own /proc/self were ours

main()
