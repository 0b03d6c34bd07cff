"""What is told at the end: by place, not by test; and the files, or why there is none."""

import json

import pytest

from pytest_plugin.suite import run_suite, write

pytestmark = pytest.mark.slow

MANY = """
import pytest, socket
KEPT = []
def connect(): KEPT.append(socket.socket())
@pytest.mark.parametrize("n", range(7))
def test_many(n): connect()
def test_elsewhere(): KEPT.append(socket.socket())
"""


@pytest.fixture
def suite(tmp_path):
    """Eight leaks at two places."""
    write(tmp_path, test_a=MANY)
    return tmp_path


def test_by_place(suite):
    """The place where most were opened comes first, with its line of code and some of its tests."""
    lines = run_suite(suite, leaks="warn").text.splitlines()
    first = lines.index("7 opened at test_a.py:4 in connect")
    assert lines[first + 1].strip() == "def connect(): KEPT.append(socket.socket())"
    assert lines[first + 2 : first + 8] == [*(f"    in test_a.py::test_many[{n}]" for n in range(5)), "    and 2 more"]
    assert lines[first + 8] == "1 opened at test_a.py:7 in test_elsewhere"


def test_file_for_machines(suite):
    """Made with its folder, and it has all that was found; a run that stops early does not speak of unused lines."""
    path = suite / "new" / "folder" / "leaks.json"
    run_suite(suite, f"--socket-leaks-report={path}", "-o", "socket_leaks_ignore=port:1")
    content = json.loads(path.read_text())
    assert (content["schema"], len(content["leaks"]), content["unused_ignore_lines"]) == (1, 8, ["port:1"])
    run_suite(suite, f"--socket-leaks-report={path}", "-o", "socket_leaks_ignore=port:1", "-x")
    content = json.loads(path.read_text())
    assert (len(content["leaks"]), content["unused_ignore_lines"]) == (1, [])


@pytest.mark.parametrize("options", [(), ("-n2",)])
@pytest.mark.parametrize("option", ["--socket-leaks-report", "--socket-leaks-baseline"])
def test_file_that_cannot_be_written(suite, option, options):
    """One line names the file, the reason and the remedy, before a test runs."""
    if options:
        pytest.importorskip("xdist")
    (suite / "file").touch()
    outcome = run_suite(suite, f"{option}={suite}/file/leaks.json", *options, leaks="warn")
    assert (outcome.status, "collected 8 items" in outcome.text) == (4, False)
    [line] = [line for line in outcome.text.splitlines() if "ERROR: " in line]
    assert f"ERROR: socket leaks cannot be written to {suite}/file/leaks.json ([Errno " in line
    assert "): name a file that can be" in line
    assert "Traceback" not in outcome.text


VANISHING = """
import pathlib, shutil, socket
KEPT = []
def test_leak():
    KEPT.append(socket.socket())
    shutil.rmtree("folder")
    pathlib.Path("folder").touch()
def test_fails(): raise AssertionError("a failure that is not to be lost")
"""


@pytest.mark.parametrize("option", ["--socket-leaks-report", "--socket-leaks-baseline"])
def test_file_that_cannot_be_written_any_more(tmp_path, option):
    """Nothing else that the run has told is lost; it does not end as if the file were there."""
    write(tmp_path, test_a=VANISHING)
    file = f"{option}={tmp_path}/folder/leaks.json"
    outcome = run_suite(tmp_path, file, leaks="warn")
    assert outcome.status == 1
    assert "a failure that is not to be lost" in outcome.text
    assert f"error: socket leaks cannot be written to {tmp_path}/folder/leaks.json ([Errno " in outcome.text
    assert "1 opened at test_a.py:5 in test_leak" in outcome.text
    assert "baseline written" not in outcome.text
    (tmp_path / "folder").unlink()
    assert run_suite(tmp_path, file, "-k", "test_leak", leaks="warn").status == 4


def test_trying_a_file_out_leaves_it_as_it_is(suite):
    """One that is there is not changed by a run that ends early, and one that is not there is not made."""
    (suite / "known.json").write_text("{}")
    files = ("--socket-leaks-baseline=known.json", f"--socket-leaks-report={suite}/new.json")
    (suite / "conftest.py").write_text("import os\ndef pytest_collection(): os._exit(9)")
    assert run_suite(suite, *files, leaks="warn").status == 9
    assert ((suite / "known.json").read_text(), (suite / "new.json").exists()) == ("{}", False)


def test_baseline_in_a_new_folder(suite):
    """It is made; what was ignored, or marked off, is not in it, and the same leak is in it once."""
    run_suite(
        suite, "--socket-leaks-baseline=new/known.json", "-o", "socket_leaks_ignore=created-by:*elsewhere", leaks="warn"
    )
    content = json.loads((suite / "new" / "known.json").read_text())
    assert content["leaks"] == [f"test_a.py::test_many[{n}] test_a.connect" for n in range(7)]


BASELINE = "--socket-leaks-baseline=known.json"


def known(folder):
    """Reads what the baseline lists, without the function that is the same for all."""
    content = json.loads((folder / "known.json").read_text())
    return [key.split()[0].rpartition("::")[2] for key in content["leaks"]]


def test_baseline_of_a_part_keeps_the_rest(suite):
    """What did not run is listed as before; of what ran, no more than was found. A whole run begins anew."""
    old = ["gone", "test_elsewhere", "test_many[0]", "test_many[1]"]
    (suite / "known.json").write_text(json.dumps({"leaks": [f"test_a.py::{name} test_a.connect" for name in old]}))
    assert "left as it is" in run_suite(suite, BASELINE, "--collect-only", leaks="warn").text
    assert known(suite) == old
    part = ("-k", "many and (1 or 2)", "-o", "socket_leaks_ignore=created-by:*connect")
    told = run_suite(suite, BASELINE, *part, leaks="warn").text
    assert "known.json; of tests that were not judged it says what it said before" in told
    assert known(suite) == ["gone", "test_elsewhere", "test_many[0]"]
    run_suite(suite, BASELINE, leaks="warn")
    assert known(suite) == ["test_elsewhere", *(f"test_many[{n}]" for n in range(7))]


def test_baseline_that_a_part_cannot_read_is_left_as_it_is(suite):
    """It may be one with the marks of a merge; a whole run writes it anew."""
    (suite / "known.json").write_text("<<<<<<<")
    outcome = run_suite(suite, BASELINE, "-k", "many", leaks="warn")
    assert (outcome.status, (suite / "known.json").read_text()) == (4, "<<<<<<<")
    assert "error: " in outcome.text
    assert "known.json is no baseline of socket leaks" in outcome.text
    assert run_suite(suite, BASELINE, leaks="warn").status == 0
    assert len(known(suite)) == 8


def test_baseline_that_is_not_there(suite):
    """One that is misspelt is not taken for an empty one: no test runs."""
    outcome = run_suite(suite, BASELINE)
    assert (outcome.status, outcome.leaks) == (4, [])
    assert "known.json is not there: write that baseline with --socket-leaks=warn" in outcome.text


@pytest.mark.parametrize("leaks", [None, "off"])
def test_no_file_for_machines_where_nothing_is_judged(suite, leaks):
    """A line says so; an empty file would say that all is well."""
    outcome = run_suite(suite, leaks=leaks)
    assert outcome.report == {}
    assert "report.json is not written: no test was judged" in outcome.text


def test_nothing_to_tell(tmp_path):
    """Without a leak there is no section."""
    write(tmp_path, test_a="def test_a(): pass")
    assert "= socket leaks =" not in run_suite(tmp_path).text
