"""The sample project of the documentation: three tests leak and fail, and pass when it is repaired."""

import os
import shutil
from pathlib import Path

import pytest

from pytest_plugin.suite import run_suite

SAMPLE = Path(__file__).parent.parent.parent / "docs/examples/pytest-sample"

pytestmark = [pytest.mark.slow, pytest.mark.one_python]


@pytest.fixture
def sample(tmp_path, monkeypatch):
    """A copy of it, with its folder on the import path."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "sample"), os.environ.get("PYTHONPATH", "")]))
    return Path(shutil.copytree(SAMPLE, tmp_path / "sample"))


def test_three_leaks_are_found(sample):
    """Its own ini file asks for it: three tests err, each with a cause and the line of code."""
    outcome = run_suite(sample, leaks=None)
    assert outcome.blamed() == {"test_ask", "test_client_asks_twice", "test_subscriber_leaves"}
    causes = {str(leak["test"]).partition("::")[2]: leak["cause"] for leak in outcome.leaks}
    assert causes["test_ask"] == "unclosed"
    assert causes["test_client_asks_twice"] == "retained"
    assert causes["test_subscriber_leaves"] in ("eof_ignored", "eof_unread")  # the buffer may have read it, or not
    assert outcome.status == 1


def test_repaired_it_passes(sample, monkeypatch):
    """The same tests pass on the repaired module."""
    monkeypatch.setenv("QUOTES", "quotes_fixed")
    outcome = run_suite(sample, leaks=None)
    assert (outcome.status, outcome.leaks, len(outcome.passed)) == (0, [], 4)


def test_page_shows_what_is_printed(sample):
    """The message in the how-to is the real one, but for numbers that differ from run to run."""
    page = (SAMPLE.parent.parent / "howto/pytest.md").read_text()
    shown = page.partition("```text\n")[2].partition("```")[0]
    text = run_suite(sample, leaks=None).text
    fixed = [line for line in shown.splitlines() if line and not any(c in line for c in ("->", "____"))]
    assert len(fixed) > 5
    assert [line for line in fixed if line.strip() not in text] == []
