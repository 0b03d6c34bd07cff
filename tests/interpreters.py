"""The CPythons at hand, for tests of what differs between versions; each runs programs that import sockguard alone."""

import glob
import os
import subprocess
import sys
from pathlib import Path

import pytest

import sockguard

__all__ = ["EACH_PYTHON", "PATIENT", "run_program"]

ROOT = os.environ.get("PYENV_ROOT", str(Path.home() / ".pyenv"))
OTHERS = {
    version: found[-1]
    for version in ("3.11", "3.12", "3.13")
    if (found := sorted(glob.glob(f"{ROOT}/versions/{version}.*/bin/python")))
}
OWN = "{}.{}".format(*sys.version_info)

EACH_PYTHON = pytest.mark.parametrize(
    "python", {**OTHERS, OWN: sys.executable}.values(), ids={**OTHERS, OWN: ""}.keys()
)


PATIENT = """
import sockguard._engine.courier as courier, sockguard._engine.driver as driver
courier.MAX_PAUSE = driver.MAX_WAIT = 60.0
"""
"""The beginning of a program that forks: threads may get the processor late, and their end is waited for."""


def run_program(python: str, program: str, *options: str, timeout: float = 90.0) -> list[str]:
    """Runs a program and returns the lines that it printed; it must write no warning and no error.

    Not with warnings as errors: the one that fork() gives in a process with threads is then
    cleared, without a word (3.12 and 3.13, Modules/posixmodule.c, `warn_about_fork_with_threads`).
    """
    path = str(Path(sockguard.__file__).parent.parent)
    command = [python, "-W", "always", *options, "-c", program]
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
    environment.pop("PYTHONSAFEPATH", None)
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()
