"""What becomes of each finding, what a worker sends home, and which file is a baseline."""

import json

import pytest

from pytest_plugin.inside import configured
from pytest_plugin.test_settings import PLAIN, leftover
from sockguard._core.ignoring import parse_rule
from sockguard.pytest_plugin.owners import PytestOwner
from sockguard.pytest_plugin.records import Records, baseline_key, read_baseline
from sockguard.pytest_plugin.settings import Allowed, Terms


def owner(action="error", allowed=None):
    """Makes a test that can be charged."""
    return PytestOwner(
        "test_a.py::test_a", "test_a.py::test_a", ("test_a.py", 1, "test_a"), Terms(action, 0, None, allowed)
    )


@pytest.fixture
def make(tmp_path):
    """Makes records, with settings that differ from the plain ones; `.told` of the configuration has the reports."""
    with configured(tmp_path) as config:
        config.told = []

        class Listens:
            def pytest_runtest_logreport(self, report):
                config.told.append(report)

        config.pluginmanager.register(Listens())
        yield lambda **changes: Records(config, PLAIN._replace(**changes))


def test_status(make):
    """A test that demands fails for it, one that does not is told of; what is allowed or ignored is neither."""
    records = make(ignore=(parse_rule("port:80"),))
    found = [leftover(remote="h:80"), leftover(remote="h:81")]
    assert records.judged(owner(), found) == found[1:]
    assert records.judged(owner("warn"), found) == []
    assert records.judged(owner(allowed=Allowed(None, None)), found) == []
    assert [entry["status"] for entry in records.entries] == [
        "ignored",
        "error",
        "ignored",
        "warning",
        "ignored",
        "ignored",
    ]
    assert records.entries[1]["test"] == "test_a.py::test_a"
    json.dumps(records.entries)


def test_ignored_ones_do_not_use_up_what_is_allowed(make):
    """One leak is allowed, one is ignored: there is none too many."""
    records = make(ignore=(parse_rule("port:80"),))
    assert records.judged(owner(allowed=Allowed(1, None)), [leftover(remote="h:80"), leftover(remote="h:81")]) == []


def test_ignore_lines_that_matched_nothing(make):
    """Those that did match, here or in a worker, are not among them."""
    records = make(ignore=tuple(map(parse_rule, ("port:80", "port:81", "port:82"))))
    records.judged(owner(), [leftover(remote="h:80")])
    records.receive({"entries": [], "used": ["port:81"], "late": [], "mishaps": []})
    assert records.unused() == ["port:82"]


def test_known_by_the_baseline(make, tmp_path):
    """Test and function count; line, port and number do not. With `warn` the file is not read, but written."""
    file = tmp_path / "known.json"
    known, new = leftover(remote="h:1", fd=9), leftover(created_by=("app.other",))
    file.write_text(json.dumps({"leaks": [baseline_key("test_a.py::test_a", known.created_by)]}))
    records = make(baseline=str(file))
    assert records.judged(owner(), [known, new]) == [new]
    assert [entry["status"] for entry in records.entries] == ["known", "error"]
    assert [make(baseline=str(file), action="warn").judged(owner(), [known])] == [[known]]


def test_baseline_that_is_not_there(make, tmp_path):
    """Where new leaks fail, its name is misspelt; where it is to be written, or only some tests ask, that is fine."""
    with pytest.raises(
        pytest.UsageError, match=r"typo.json is not there: write that baseline with --socket-leaks=warn"
    ):
        make(baseline=str(tmp_path / "typo.json"))
    for action in ("warn", "off"):
        make(baseline=str(tmp_path / "typo.json"), action=action)


@pytest.mark.parametrize("created_by", [("app.f", "lib.g"), ["app.f"], ()])
def test_baseline_key(created_by):
    """The same for the record of this process and for that which a worker sent; also where nothing is known."""
    assert baseline_key("a::b", created_by) == ("a::b app.f" if created_by else "a::b -")


def test_late_report(make):
    """Who is judged already fails by a report of its own."""
    records = make()
    records.tell_of("test_a.py::test_a", ("test_a.py", 1, "test_a"), "the text")
    [report] = records._config.told  # noqa: SLF001
    assert (report.nodeid, report.outcome, report.when, report.longrepr) == (
        *("test_a.py::test_a", "failed", "teardown", "the text"),
    )


def test_worker_sends_everything_home(make):
    """In plain types, as they cross processes; the main process then has the same, and makes the reports."""
    worker = make()
    worker._config.workerinput = {}  # noqa: SLF001 - what pytest-xdist sets
    worker.judged(owner(), [leftover()])
    worker.tell_of("a::b", ("a", 1, "b"), "late")
    worker.mishaps.append("a::b could not be judged")
    assert worker._config.told == []  # noqa: SLF001
    sent = json.loads(json.dumps(worker.to_send()))
    del worker._config.workerinput  # noqa: SLF001
    main = make()
    main.receive(sent)
    assert (main.entries, main.mishaps) == (worker.entries, worker.mishaps)
    assert [report.nodeid for report in main._config.told] == ["a::b"]  # noqa: SLF001


def test_no_baseline():
    """No file is no known leak: the first run has none."""
    assert read_baseline("") == read_baseline("/nowhere/at/all.json") == set()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"5", b"{}", b'{"leaks": 5}', b"\xff\xfe"])
def test_what_is_no_baseline(tmp_path, content):
    """It is named, with the reason and what to do, in one line."""
    file = tmp_path / "known.json"
    file.write_bytes(content)
    with pytest.raises(pytest.UsageError) as caught:
        read_baseline(str(file))
    assert str(caught.value).startswith(f"{file} is no baseline of socket leaks (")
    assert str(caught.value).endswith("write it anew with --socket-leaks=warn")


def test_a_folder_is_no_baseline(tmp_path):
    """Nor is anything else that cannot be read."""
    with pytest.raises(pytest.UsageError, match="is no baseline of socket leaks"):
        read_baseline(str(tmp_path))
