"""Did all of the suite run? Only then is a line that matched nothing out of date."""

import pytest

from pytest_plugin.inside import configured
from pytest_plugin.suite import run_suite, write
from sockguard.pytest_plugin.extent import Extent


@pytest.fixture
def suite(tmp_path):
    """A suite in two folders, in each of which one test could leak, and a line that matches neither."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write(tmp_path / name, **{f"test_{name}": f"def test_{name}(): pass\ndef test_more(): pass\n"})
    (tmp_path / "pytest.ini").write_text("[pytest]\nsocket_leaks_ignore = port:1\n")
    return tmp_path


def unused(folder, *options, leaks="error"):
    """Runs the suite; gives the lines that are told to match nothing any more."""
    outcome = run_suite(folder, *options, leaks=leaks)
    assert ("matches nothing any more" in outcome.text) == bool(outcome.report["unused_ignore_lines"])
    return outcome.report["unused_ignore_lines"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        (),
        (".",),
        (
            "one",
            "two/..",
        ),
        ("-n2",),
        ("-o", "testpaths=one", "one"),
    ],
)
def test_whole_suite(suite, options):
    """It may be named on the command line, and run by workers."""
    if "-n2" in options:
        pytest.importorskip("xdist")
    assert unused(suite, *options) == ["port:1"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        ("one",),
        ("--ignore=one",),
        ("--ignore-glob=*one*",),
        ("--deselect=one/test_one.py::test_one",),
        ("-k", "test_one"),
        ("-n2", "-k", "test_one"),
        ("-n2", "--deselect=one/test_one.py::test_one"),
        ("--collect-only",),
        ("--setup-only",),
        ("--maxfail=1", "-p", "fails"),
    ],
)
def test_part_of_the_suite(suite, options):
    """However it was chosen, also if only the workers know."""
    if "-n2" in options:
        pytest.importorskip("xdist")
    write(suite, fails="def pytest_runtest_call(item): assert item.name != 'test_one'")
    assert unused(suite, "-o", "pythonpath=.", *options) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("test", "is_told"),
    [
        ("def test_a(): raise AssertionError", False),
        ("import pytest\ndef test_a(): pytest.skip('not here')", False),
        ("import pytest\n@pytest.mark.xfail\ndef test_a(): raise AssertionError", False),
        ("import pytest\n@pytest.fixture\ndef bad(): raise KeyError\ndef test_a(bad): pass", False),
        ("import pytest\npytest.skip('not here', allow_module_level=True)", False),
        ("import nowhere.to_be_found", False),
        ("import socket\nKEPT = []\ndef test_a(): KEPT.append(socket.socket())", True),
    ],
)
@pytest.mark.parametrize("options", [(), ("-n2",)])
def test_test_that_did_not_come_to_its_end(suite, test, is_told, options):
    """What it would have opened is not known; one that errs for a leak has shown it."""
    if options:
        pytest.importorskip("xdist")
    write(suite, test_a=test)
    assert unused(suite, *options) == (["port:1"] if is_told else [])


@pytest.mark.slow
def test_only_those_that_ask_are_judged(suite):
    """Then nothing is known of the others."""
    write(suite, test_a="def test_a(no_socket_leaks): pass")
    assert unused(suite, leaks=None) == []


@pytest.mark.parametrize(
    ("ini", "words", "is_part"),
    [
        ("", (), False),
        ("testpaths = a b", (), False),
        ("testpaths = a b", ("a",), True),
        ("testpaths = ?", ("a", "b"), False),
        ("testpaths = nowhere", ("a",), True),
        ("", ("a", "b"), True),
        ("", ("a/..",), False),
        ("", ("a/test_a.py::test_a",), True),
        ("testpaths = a", ("--pyargs", "a"), False),
        ("", ("--lf",), True),
    ],
)
def test_paths_that_take_in_the_suite(tmp_path, monkeypatch, ini, words, is_part):
    """It is what the ini file says, or all that lies below that file."""
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    with configured(tmp_path, ini=ini) as config:
        config.args = [word for word in words if not word.startswith("-")] or [str(tmp_path)]
        config.option.lf = "--lf" in words
        assert Extent(config, is_part=False).is_part == is_part
