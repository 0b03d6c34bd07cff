"""What the documentation shows can be run: every Python example, and the generated table is fresh."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```python(?P<file> file=\S+)?\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
EXAMPLES = [
    pytest.param(found["code"], bool(found["file"]), id=f"{page.relative_to(ROOT)}-{number}")
    for page in PAGES
    for number, found in enumerate(BLOCK.finditer(page.read_text()), 1)
]


@pytest.mark.slow
@pytest.mark.parametrize(("code", "is_file"), EXAMPLES)
def test_example_runs(code, is_file, tmp_path):
    """An example runs without a warning; one that is a file of a walk-through, perhaps a server, compiles."""
    script = tmp_path / "example.py"
    script.write_text(code)
    command = [sys.executable, "-P", "-W", "error", *(["-m", "py_compile"] if is_file else []), str(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


def test_there_are_examples():
    """The pattern still finds the examples: none found would pass unnoticed."""
    assert len(EXAMPLES) >= 5


@pytest.mark.one_python
@pytest.mark.parametrize("tool", ["make_causes.py", "make_events.py", "make_policy.py"])
def test_tables_are_made_from_the_code(tool):
    """The tables of causes, events and policy in `docs/reference/` say what the code says."""
    command = [sys.executable, "-P", str(ROOT / "tools" / tool), "--check"]
    beside = {**os.environ, "PYTHONPATH": str(ROOT / "tools")}  # what the tools share, and not the checkout
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=beside)
    assert (done.returncode, done.stderr) == (0, "")
