"""Gets what a suite needs: its sdist, unpacked, and an environment of its own with sockguard in it."""

import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["HOME", "ROOT", "Suite", "Unavailable", "prepare"]

ROOT = Path(__file__).parent.parent.parent
HOME = ROOT / ".venv-suites"


class Unavailable(Exception):
    """Something that a suite needs cannot be had here."""


class Suite(NamedTuple):
    """A suite that can be run."""

    name: str
    sdist: str
    folder: Path
    """Where its sources are."""
    python: Path
    words: list[str]
    """Options of pytest."""
    tests: list[str]
    path: str
    """For PYTHONPATH; "" if nothing is needed."""


def prepare(name: str, described: dict[str, Any]) -> Suite:
    """Downloads, unpacks and installs what is not there yet.

    Raises:
        Unavailable: It cannot be had.
    """
    folder = unpacked(described["sdist"])
    paths = [word for word in described["tests"] if word[0] != "-" and "." not in word.removesuffix(".py")]
    if missing := [path for path in paths if not (folder / path).exists()]:
        msg = f"the sdist of {described['sdist']} has no {', '.join(missing)}"
        raise Unavailable(msg)
    python = HOME / name / "bin" / "python"
    ready = HOME / name / ".ready"
    if not ready.exists() or ready.read_text(encoding="utf-8") != str(described["needs"]):
        command([sys.executable, "-m", "venv", str(HOME / name)])
        pip(str(python), "install", *described["needs"])
        pip(str(python), "install", "-e", str(ROOT))
        ready.write_text(str(described["needs"]), encoding="utf-8")
    path = str(folder / described["path"]) if "path" in described else ""
    return Suite(name, described["sdist"], folder, python, described.get("options", []), described["tests"], path)


def unpacked(requirement: str) -> Path:
    """Gives the folder with the sources of NAME==VERSION."""
    project, _, version = requirement.partition("==")
    sdists = HOME / "sdists"
    folder = sdists / f"{project}-{version}"
    if not folder.exists():
        pip(sys.executable, "download", "--no-deps", "--no-binary", project, "--dest", str(sdists), requirement)
        with tarfile.open(folder.with_name(f"{folder.name}.tar.gz")) as archive:
            archive.extractall(sdists, filter="data")
    return folder


def pip(python: str, action: str, *words: str) -> None:
    """Runs pip of that interpreter."""
    command([python, "-m", "pip", action, "--quiet", "--disable-pip-version-check", *words])


def command(words: list[str]) -> None:
    """Runs it; what it printed last is the reason if it fails."""
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        told = [line for line in done.stdout.splitlines() if line.startswith("ERROR")]
        raise Unavailable((told or done.stdout.splitlines() or ["no reason told"])[-1])
