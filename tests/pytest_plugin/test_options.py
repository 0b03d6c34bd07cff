"""Options, ini file, markers, fixtures: what each asks for, and what becomes of nonsense."""

import json
import os
import subprocess
import sys

import pytest

from pytest_plugin.suite import PLUGIN, run_suite, write

pytestmark = pytest.mark.one_python

LEAKING = "import socket\nKEPT = []\ndef connect(): KEPT.append(socket.socket())\n"


def suite(*tests: str) -> str:
    """Makes a file of tests, after the function `connect` that leaks."""
    return LEAKING + "import pytest\n" + "\n".join(tests)


def ask(folder, *options):
    """Runs pytest for what it prints without running tests."""
    command = [sys.executable, "-m", "pytest", *PLUGIN, *options]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    return done.stdout + done.stderr


@pytest.mark.slow
def test_help_and_markers_tell_everything(tmp_path):
    """`pytest --help` has the options and ini names, `--markers` both markers, `--fixtures` both fixtures."""
    told = ask(tmp_path, "--help")
    for name in ("--socket-leaks={off,warn,error}", "--socket-leaks-report", "--socket-leaks-baseline"):
        assert name in told
    for name in ("socket_leaks_ignore (linelist)", "socket_leaks_grace (string)", "socket_leaks_check_failed (bool)"):
        assert name in told
    markers = ask(tmp_path, "--markers")
    assert "@pytest.mark.socket_leaks(action=None, grace=None, states=None):" in markers
    assert "@pytest.mark.allow_socket_leaks(reason, count=None, match=None):" in markers
    fixtures = ask(tmp_path, "--fixtures")
    assert "no_socket_leaks" in fixtures
    assert "socket_leak_guard" in fixtures


@pytest.mark.slow
@pytest.mark.parametrize(
    ("leaks", "status", "is_found"), [(None, 0, False), ("off", 0, False), ("warn", 0, True), ("error", 1, True)]
)
def test_action(tmp_path, leaks, status, is_found):
    """Nothing is done until it is asked for; `warn` tells in the end; `error` fails the test."""
    write(tmp_path, test_a=suite("def test_a(): connect()"))
    outcome = run_suite(tmp_path, leaks=leaks)
    assert (outcome.status, bool(outcome.leaks)) == (status, is_found)
    assert ("1 opened at test_a.py:3 in connect" in outcome.text) == is_found
    assert ("socket leaks: " in outcome.text) == is_found


@pytest.mark.slow
def test_ini_file(tmp_path):
    """The ini option asks as the command line does, which goes before it."""
    write(tmp_path, test_a=suite("def test_a(): connect()"))
    (tmp_path / "pytest.ini").write_text("[pytest]\nsocket_leaks = error\n")
    assert run_suite(tmp_path, leaks=None).status == 1
    assert run_suite(tmp_path, leaks="off").status == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        ("socket_leaks = maybe", "socket_leaks = 'maybe' makes no sense: write off, warn or error"),
        ("socket_leaks_grace = soon\nsocket_leaks = error", "socket_leaks_grace = 'soon' makes no sense"),
        ("socket_leaks_ignore = 8080\nsocket_leaks = error", "socket_leaks_ignore: '8080' says not what to ignore"),
    ],
)
def test_nonsense_in_the_ini_file_is_a_usage_error(tmp_path, lines, complaint):
    """One line names value and remedy, and nothing runs."""
    write(tmp_path, test_a=suite("def test_a(): pass"))
    (tmp_path / "pytest.ini").write_text(f"[pytest]\n{lines}\n")
    told = ask(tmp_path)
    assert complaint in told
    assert "Traceback" not in told


@pytest.mark.slow
def test_markers(tmp_path):
    """Markers change action, grace and states of one test, and allow leaks for a reason, by number or pattern."""
    tests = suite(
        "@pytest.mark.socket_leaks(action='off')\ndef test_off(): connect()",
        "@pytest.mark.socket_leaks('warn')\ndef test_warn(): connect()",
        "@pytest.mark.socket_leaks(states=['CLOSE_WAIT'])\ndef test_states(): connect()",
        "@pytest.mark.socket_leaks(states='UNCONNECTED')\ndef test_leak_states(): connect()",
        "@pytest.mark.allow_socket_leaks('a reason')\ndef test_allowed(): connect()",
        "@pytest.mark.allow_socket_leaks('a reason', count=1)\ndef test_one(): connect()",
        "@pytest.mark.allow_socket_leaks('a reason', count=1)\ndef test_leak_two(): connect(); connect()",
        "@pytest.mark.allow_socket_leaks('a reason', match='created-by:*.connect')\ndef test_match(): connect()",
        "@pytest.mark.allow_socket_leaks('a reason', match='port:1')\ndef test_leak_match(): connect()",
        "@pytest.mark.allow_socket_leaks('a reason')\nclass TestClass:\n    def test_in_class(self): connect()",
    )
    write(tmp_path, test_a=tests)
    outcome = run_suite(tmp_path)
    assert outcome.blamed() == {"test_leak_states", "test_leak_two", "test_leak_match"}
    assert [leak["test"] for leak in outcome.leaks if leak["status"] == "warning"] == ["test_a.py::test_warn"]


@pytest.mark.slow
def test_nonsense_in_markers_fails_the_test(tmp_path):
    """A marker without a reason, or with a word that is not known, is an error that says what to write."""
    tests = suite(
        "@pytest.mark.allow_socket_leaks\ndef test_a(): pass",
        "@pytest.mark.allow_socket_leaks(' ')\ndef test_b(): pass",
        "@pytest.mark.socket_leaks(action='loud')\ndef test_c(): pass",
        "@pytest.mark.allow_socket_leaks('x', match='y')\ndef test_d(): pass",
        "@pytest.mark.socket_leaks(grace=-1)\ndef test_e(): pass",
    )
    write(tmp_path, test_a=tests)
    outcome = run_suite(tmp_path)
    assert len(outcome.errors) == 5
    for words in ("say why, as in", "give off, warn or error", "says not what to ignore", "give seconds, 0 or more"):
        assert words in outcome.text


@pytest.mark.slow
def test_a_test_can_ask_by_itself(tmp_path):
    """Where no option asks, marked tests and those with the fixture are judged, and no others; `off` means off."""
    tests = suite(
        "def test_other(): connect()",
        "@pytest.mark.socket_leaks\ndef test_marked(): connect()",
        "def test_fixture(no_socket_leaks): connect()",
    )
    write(tmp_path, test_a=tests)
    outcome = run_suite(tmp_path, leaks=None)
    assert outcome.blamed() == {"test_marked", "test_fixture"}
    assert run_suite(tmp_path, leaks="off").errors == []


@pytest.mark.slow
def test_guard_fixture(tmp_path):
    """`socket_leak_guard` lists what is open, since the test began or a snapshot; it can have that count as wanted."""
    tests = suite(
        "def test_leaked(socket_leak_guard):\n"
        "    s = socket.socket()\n"
        "    [leak] = socket_leak_guard.leaked()\n"
        "    assert leak.created_by[0] == 'test_a.test_leaked'\n"
        "    before = socket_leak_guard.snapshot()\n"
        "    assert socket_leak_guard.leaked(before) == []\n"
        "    with pytest.raises(AssertionError, match='1 socket left open'):\n"
        "        socket_leak_guard.assert_clean(grace=0)\n"
        "    s.close()\n"
        "    socket_leak_guard.assert_clean()",
        "def test_ignore(socket_leak_guard):\n    connect()\n    socket_leak_guard.ignore_current()",
        "def test_still_judged(socket_leak_guard):\n    connect()\n    socket_leak_guard.leaked()",
    )
    write(tmp_path, test_a=tests)
    outcome = run_suite(tmp_path)
    assert outcome.blamed() == {"test_still_judged"}
    assert outcome.passed == ["test_a.py::test_leaked", "test_a.py::test_ignore", "test_a.py::test_still_judged"]
    assert run_suite(tmp_path, "-k", "not judged", leaks=None).errors == []


@pytest.mark.slow
def test_ignore_lines(tmp_path):
    """What a line of the list matches is no leak; a line that matches nothing is told, unless only a part ran."""
    write(tmp_path, test_a=suite("def test_a(): connect()"))
    lines = "socket_leaks_ignore =\n    created-by:test_a.connect\n    port:1\n"
    (tmp_path / "pytest.ini").write_text(f"[pytest]\n{lines}")
    outcome = run_suite(tmp_path)
    assert (outcome.status, [leak["status"] for leak in outcome.leaks]) == (0, ["ignored"])
    assert outcome.report["unused_ignore_lines"] == ["port:1"]
    assert "socket_leaks_ignore = port:1 matches nothing any more" in outcome.text
    assert run_suite(tmp_path, "test_a.py").report["unused_ignore_lines"] == []


@pytest.mark.slow
def test_message_can_be_pasted_into_the_ignore_list(tmp_path):
    """The line that the message proposes leaves out that very leak."""
    write(tmp_path, test_a=suite("def test_a(): connect()"))
    text = run_suite(tmp_path).text
    lines = [line.replace("to ignore", "").strip() for line in text.splitlines() if "to ignore" in line]
    assert lines == ["socket_leaks_ignore = created-by:test_a.connect"], text
    (tmp_path / "pytest.ini").write_text("[pytest]\n" + lines[0])
    assert run_suite(tmp_path).status == 0


@pytest.mark.slow
def test_message(tmp_path):
    """The failure tells cause, address, place with its line of code, holder, remedy; the summary has the place."""
    write(tmp_path, test_a=suite("def test_a(): connect()"))
    text = run_suite(tmp_path).text
    for words in (
        "SocketLeakError: 1 socket left open, opened at test_a.py:3 in connect, by test_a.py::test_a",
        "TCP, UNCONNECTED, fd ",
        "cause      retained",
        "opened at  test_a.py:3 in connect",
        "def connect(): KEPT.append(socket.socket())",
        "test_a.py:5 in test_a",
        "held by    list 'KEPT' of module test_a",
        "remedy     It is still referred to and open: close it",
        "ERROR test_a.py::test_a - SocketLeakError: 1 socket left open, opened at test_a.py:3 in connect",
    ):
        assert words in text
    assert "sockguard/" not in text  # our own stack is no news


@pytest.mark.slow
def test_failed_tests_are_judged_if_asked(tmp_path):
    """By default a test that fails anyway is not judged; `socket_leaks_check_failed` has it judged."""
    write(tmp_path, test_a=suite("def test_a():\n    connect()\n    raise AssertionError"))
    assert run_suite(tmp_path).leaks == []
    assert run_suite(tmp_path, "-o", "socket_leaks_check_failed=true").blamed() == {"test_a"}


@pytest.mark.slow
def test_fixture_of_the_test_is_named(tmp_path):
    """What a fixture of function scope leaves open is the test's; the message names the fixture."""
    write(tmp_path, test_a=suite("@pytest.fixture\ndef sock(): return socket.socket()\ndef test_a(sock): pass"))
    [leak] = run_suite(tmp_path).leaks
    assert (leak["test"], leak["fixture"], leak["held_by"]) == (
        "test_a.py::test_a",
        "sock",
        ["the value of fixture 'sock'"],
    )


@pytest.mark.slow
def test_baseline(tmp_path):
    """`warn` writes the leaks of today; `error` lets them pass and fails for new ones."""
    write(tmp_path, test_a=suite("def test_a(): connect()"))
    known = ("--socket-leaks-baseline=known.json",)
    assert run_suite(tmp_path, *known, leaks="warn").status == 0
    content = json.loads((tmp_path / "known.json").read_text())
    assert content == {"schema": 1, "leaks": ["test_a.py::test_a test_a.connect"]}
    assert run_suite(tmp_path, *known).status == 0
    write(tmp_path, test_b=LEAKING + "def test_b(): connect()")
    outcome = run_suite(tmp_path, *known)
    assert outcome.blamed() == {"test_b"}
    assert "1 known leaks, listed in" in outcome.text


@pytest.mark.slow
def test_broken_baseline_is_a_usage_error(tmp_path):
    """A file that is no baseline is refused by name."""
    write(tmp_path, test_a=suite("def test_a(): connect()"))
    (tmp_path / "known.json").write_text("[]")
    outcome = run_suite(tmp_path, "--socket-leaks-baseline=known.json")
    assert outcome.status == 4
    assert "known.json is no baseline of socket leaks" in outcome.text


@pytest.mark.slow
def test_decorated_fixture(tmp_path):
    """A fixture that yields can be a block of its own: it errs in its teardown if it left something open."""
    tests = suite(
        "from sockguard import no_socket_leaks",
        "@pytest.fixture\n@no_socket_leaks()\ndef good():\n    with socket.socket() as sock:\n        yield sock",
        "@pytest.fixture\n@no_socket_leaks(grace=0)\ndef bad():\n    connect()\n    yield",
        "def test_good(good): assert isinstance(good, socket.socket)",
        "def test_bad(bad): pass",
    )
    write(tmp_path, test_a=tests)
    for leaks in (None, "error"):
        outcome = run_suite(tmp_path, leaks=leaks)
        assert outcome.errors == ["test_a.py::test_bad"]
        assert len(outcome.passed) == 2


ENTRY = """
import sys
before = set(sys.modules)
import sockguard.pytest_plugin.entry
ours = sorted(name for name in sys.modules if name.startswith("sockguard"))
print(*ours)
print(*sorted({"asyncio", "wrapt", "ctypes", "anyio", "structlog", "select"} & (set(sys.modules) - before)))
"""


def test_entry_file_is_light():
    """Every run of pytest loads it, so beyond pytest and `import sockguard` it loads nothing of ours."""
    program = "import sockguard, pytest\n" + ENTRY
    done = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, check=True)
    loaded, heavy = done.stdout.splitlines()
    plain = subprocess.run(
        [
            sys.executable,
            "-P",
            "-c",
            "import sys, sockguard; print(*sorted(n for n in sys.modules if 'sockguard' in n))",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert set(loaded.split()) - set(plain.stdout.split()) == {
        "sockguard.pytest_plugin",
        "sockguard.pytest_plugin.entry",
    }
    assert heavy == ""


@pytest.mark.slow
def test_nothing_is_wrapped_when_off(tmp_path):
    """Without being asked the plugin changes no name, and registers nothing but its entry file."""
    test = (
        "import socket\n"
        "def test_a(request):\n"
        "    assert '__del__' not in vars(socket.socket)\n"
        "    assert socket.socket.__init__.__code__.co_filename == socket.__file__\n"
        "    assert request.config.pluginmanager.get_plugin('sockguard-court') is None\n"
    )
    write(tmp_path, test_a=test)
    assert run_suite(tmp_path, leaks=None).status == 0


@pytest.mark.slow
def test_everything_is_unwrapped_in_the_end(tmp_path):
    """After the run `socket.socket` is as it was."""
    write(tmp_path, test_a=suite("def test_a(): socket.socket().close()"))
    program = (
        "import pytest, socket, sys\n"
        "before = dict(vars(socket.socket))\n"
        f"status = pytest.main({[*PLUGIN, '--socket-leaks=error', '-q']!r})\n"
        "sys.exit(status or dict(vars(socket.socket)) != before)\n"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", program],
        cwd=tmp_path,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
