"""The link checker behind `make docs` finds a dead link, and only those."""

import subprocess
import sys
from pathlib import Path

import pytest

CHECKER = Path(__file__).parent.parent / "tools" / "check_links.py"


def check(folder: Path, page: str) -> subprocess.CompletedProcess[str]:
    """Runs the checker on a folder with `page` as README.md beside a small guide."""
    (folder / "guide.md").write_text("# The `guide`: start\n# Twice\n# Twice\n```\n# no heading\n```\n")
    (folder / "README.md").write_text(page)
    return subprocess.run([sys.executable, CHECKER, folder], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "page",
    [
        "[file](guide.md)",
        "[folder](.)",
        "[heading](guide.md#the-guide-start), [second of a name](guide.md#twice-1)",
        "# Here\n[own heading](#here)",
        "[elsewhere](https://example.invalid/nowhere), [mail](mailto:a@example.invalid)",
        "`[code](nowhere.md)`\n\n```\n[code](nowhere.md)\n```",
    ],
)
def test_accepts_links_that_hold(tmp_path, page):
    """A link to a file, folder, heading or other site is accepted, and code holds no links."""
    outcome = check(tmp_path, page)
    assert (outcome.returncode, outcome.stdout) == (0, "2 Markdown files, 0 dead links\n")


@pytest.mark.parametrize(
    "target", ["nowhere.md", "guide.md#nowhere", "guide.md#no-heading", "#nowhere", "guide.md/x", "../nowhere/"]
)
def test_names_each_dead_link_with_its_line(tmp_path, target):
    """A link to a file or heading that does not exist is named with page and line, in each spelling."""
    outcome = check(tmp_path, f"Words.\n\n[inline]({target})\n![image]({target} 'title')\n\n[label]: {target}\n")
    page = tmp_path / "README.md"
    expected = [*(f"{page}:{line}: {target}" for line in (3, 4, 6)), "2 Markdown files, 3 dead links"]
    assert (outcome.returncode, outcome.stdout.splitlines()) == (1, expected)
