"""The front door: help, version, and errors as one line on stderr with exit status 2, never a traceback."""

import errno
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

import sockguard
from children import start_child
from commands import PYTHON, SOCKGUARD, environment, run
from loopback import vanished_peer
from sockguard.cli import main
from sockguard.errors import KernelUnavailable, UsageError
from waiting import eventually

pytestmark = [pytest.mark.slow, pytest.mark.one_python]

COMMANDS = ["run", "report", "states", "reap", "doctor", "demo"]
NO_SUCH_PID = 2**22 + 1
"""Above the greatest pid that Linux gives (/proc/sys/kernel/pid_max is at most 2^22)."""


def is_one_line_of_complaint(outcome) -> bool:
    return (outcome.status, outcome.out) == (2, "") and outcome.err.count("\n") == 1


def test_no_arguments_show_the_help():
    """Alone, the command tells what it can do, on stderr, with exit status 2 as nothing was asked for."""
    outcome = run()
    assert (outcome.status, outcome.out) == (2, "")
    assert all(command in outcome.err for command in COMMANDS)


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_lists_all_commands(option):
    """Help names each command with a line of explanation, and exits with 0."""
    outcome = run(option)
    assert (outcome.status, outcome.err) == (0, "")
    listed = outcome.out.partition("Commands:")[2]
    assert re.findall(r"^  (\w+)  +[A-Z]", listed, re.MULTILINE) == COMMANDS


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help(command):
    """Each command explains itself and its exit status or effect."""
    outcome = run(command, "--help")
    assert (outcome.status, outcome.err) == (0, "")
    assert outcome.out.startswith(f"Usage: sockguard {command}")
    assert len(outcome.out.splitlines()) > 4


def test_version():
    """--version tells the version of the package."""
    outcome = run("--version")
    assert (outcome.status, outcome.out.strip()) == (0, f"sockguard, version {sockguard.__version__}")


@pytest.mark.parametrize(
    "arguments",
    [
        ["reprot"],
        ["--no-such-option"],
        ["report", "--no-such-option"],
        ["report", "--pid"],
        ["report", "--pid", "text"],
        ["report", "--pid", "0"],
        ["report", "--pid", "-1"],
        ["report", "--pid", "1.5"],
        ["report", "--pid", str(NO_SUCH_PID)],
        ["report", "--min-age", "-1"],
        ["report", "--min-age", "soon"],
        ["report", "--min-age", "nan"],
        ["report", "--min-age", "inf"],
        ["report", "--wait", "-1"],
        ["report", "--wait", "nan"],
        ["report", "--wait", "inf"],
        ["report", "--limit", "-1"],
        ["report", "--state", "HALF_OPEN"],
        ["report", "--state", "LISTEN"],
        ["report", "superfluous"],
        ["states", "--pid", str(NO_SUCH_PID)],
        ["states", "--state", "x"],
        ["reap"],
        ["reap", "--pid", "text"],
        ["reap", "--pid", str(NO_SUCH_PID)],
        ["reap", "--pid", "1", "--cause", "bad_luck"],
        ["reap", "--pid", "1", "--older-than", "-1"],
        ["reap", "--pid", "1", "--older-than", "nan"],
        ["doctor", "--pid", str(NO_SUCH_PID)],
        ["doctor", "--pid", "0"],
    ],
    ids=" ".join,
)
def test_mistake_is_one_line(arguments):
    """Whatever a user gets wrong is told in one line that begins with the program's name; exit status 2."""
    outcome = run(*arguments)
    assert is_one_line_of_complaint(outcome), outcome
    assert outcome.err.startswith("sockguard: ")


@pytest.mark.parametrize("command", ["report", "states", "reap"])
def test_process_that_has_ended_but_is_not_waited_for(command):
    """A zombie has nothing to look at: one line that says so."""
    with subprocess.Popen(["true"]) as zombie:
        os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)
        outcome = run(command, "--pid", zombie.pid)
    assert is_one_line_of_complaint(outcome), outcome
    assert str(zombie.pid) in outcome.err
    assert "zombie" in outcome.err


def test_bad_pid_beside_a_good_one_does_not_hide_its_report():
    """Of two processes one is gone: the other's report is given, and the status says that not all was seen."""
    outcome = run("report", "--pid", NO_SUCH_PID, "--pid", os.getpid(), "--min-age", 3600)
    assert outcome.status == 2
    assert "No leaks in 1 process" in outcome.out
    assert f"process {NO_SUCH_PID}" in outcome.err


def test_without_click_says_what_to_install(tmp_path):
    """Without the packages of the command line it is one line that names them; the library works all the same."""
    (tmp_path / "sockguard").symlink_to(Path(sockguard.__file__).parent)
    bare = [sys.executable, "-S", "-P"]
    outcome = run("report", prefix=[*bare, "-m", "sockguard"], PYTHONPATH=str(tmp_path))
    assert is_one_line_of_complaint(outcome), outcome
    assert "click and rich" in outcome.err
    assert "pip install 'sockguard[cli]'" in outcome.err
    find = "import sockguard; print(sockguard.find_leaks())"
    outcome = run("-c", find, prefix=bare, PYTHONPATH=str(tmp_path))
    assert (outcome.status, outcome.out) == (0, "[]\n")


WRITERS = [
    ["report", "--all", "--min-age", "0"],
    ["report", "--all", "--min-age", "0", "--json"],
    ["states"],
    ["states", "--json"],
    ["doctor"],
    ["doctor", "--json"],
    ["reap", "--pid", "OWN"],
    ["reap", "--pid", "OWN", "--json"],
    ["--help"],
]


@pytest.mark.parametrize("arguments", WRITERS, ids=" ".join)
def test_reader_that_has_left(arguments):
    """Into a pipe that nobody reads any more, as behind `head`, a command ends without a word of complaint."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    command = [*SOCKGUARD, *(str(os.getpid()) if word == "OWN" else word for word in arguments)]
    finished = subprocess.run(
        command, stdout=write_end, stderr=subprocess.PIPE, env=environment(), text=True, check=False
    )
    os.close(write_end)
    noise = [line for line in finished.stderr.splitlines() if not line.startswith("sockguard: not seen: ")]
    assert (noise, finished.returncode) == ([], 141)


COLOUR = re.compile(r"\x1b\[(?:\d+;)*[349]\d")
"""Any code that sets a colour of letters or ground; bold and dim are none."""


def in_terminal(*arguments: str, **variables: str) -> str:
    """Runs a command in a terminal and gives what it wrote there."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [*SOCKGUARD, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
        env=environment(TERM="xterm-256color", **variables),
    ):
        os.close(theirs)
        written = b""
        try:
            while part := os.read(ours, 4096):
                written += part
        except OSError as error:  # the terminal is gone with its last writer
            assert error.errno == errno.EIO  # noqa: PT017
    os.close(ours)
    return written.decode()


@pytest.mark.parametrize("arguments", [["states"], ["doctor"], ["report", "--all"], ["demo"]], ids=" ".join)
def test_colours_only_where_wanted(arguments):
    """A terminal gets colours, NO_COLOR switches them off, and a pipe never gets an escape code."""
    assert "\x1b[" in in_terminal(*arguments)
    assert not COLOUR.search(in_terminal(*arguments, NO_COLOR="1"))
    assert "\x1b" not in run(*arguments).out


def test_loads_only_what_the_command_needs():
    """`report --json` imports neither rich nor the other commands, so that scripts get fast answers."""
    code = (
        "import sys; from sockguard.cli.main import run\n"
        "try: run(['report', '--json', '--pid', str(__import__('os').getpid())])\n"
        "finally: print(sorted(m for m in sys.modules if m == 'rich' or m.startswith('sockguard.cli.')))"
    )
    outcome = run("-c", code, prefix=PYTHON)
    assert outcome.status == 0
    assert outcome.out.splitlines()[-1] == str(["sockguard.cli.main", "sockguard.cli.options", "sockguard.cli.report"])


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (UsageError("age=-1 makes no sense: give seconds"), 2, "sockguard: age=-1 makes no sense: give seconds\n"),
        (
            KernelUnavailable("netlink", "refused", "Allow it"),
            2,
            "sockguard: netlink is not available: refused. Allow it\n",
        ),
        (PermissionError(errno.EPERM, "Operation not permitted"), 2, "sockguard: Operation not permitted\n"),
        (FileNotFoundError(errno.ENOENT, "No such file", "/proc/1"), 2, "sockguard: No such file: /proc/1\n"),
        (OSError("just words"), 2, "sockguard: just words\n"),
        (click.UsageError("no"), 2, "sockguard: no\n"),
        (click.exceptions.Abort(), 130, ""),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_errors_become_a_line(monkeypatch, capsys, error, status, said):
    """An error that a command raises is its message on stderr, with the exit status that fits."""

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(main.cli, "invoke", fail)
    with pytest.raises(SystemExit) as ended:
        main.run(["doctor"])
    assert (ended.value.code, capsys.readouterr().err) == (status, said)


def test_bug_is_not_hidden(monkeypatch, capsys):
    """An error of our own making comes out whole, and not with the status that means leaks."""

    def fail(*_, **__):
        raise ZeroDivisionError

    monkeypatch.setattr(main.cli, "invoke", fail)
    with pytest.raises(SystemExit) as ended:
        main.run(["doctor"])
    assert (ended.value.code, "ZeroDivisionError" in capsys.readouterr().err) == (2, True)


def test_terminal_that_knows_no_unicode():
    """A sign that cannot be printed becomes a question mark, not a traceback with the status that means leaks."""
    with vanished_peer() as connection:
        connection.server.sendall(b"answer")  # so that the age is "at least", with a sign of its own
        eventually(lambda: run("report", "--pid", os.getpid(), "--min-age", 0).status == 1)
        outcome = run("report", "--pid", os.getpid(), "--min-age", 0, PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert (outcome.status, outcome.err) == (1, "")
    assert outcome.out.isascii()


def test_no_stdout_at_all():
    """Started with its output closed, it still tells by its exit status."""
    command = " ".join([*SOCKGUARD, "report", "--pid", "$$", ">&-"])
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, env=environment(), check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_thread_is_told_from_a_process():
    """/proc answers for the number of a thread as well, under which each leak would look shared."""
    with start_child() as child:
        child.do("import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()")
        (thread,) = (int(tid) for tid in os.listdir(f"/proc/{child.pid}/task") if int(tid) != child.pid)
        outcome = run("report", "--pid", thread)
    assert (outcome.status, outcome.out) == (2, "")
    assert outcome.err == f"sockguard: process {thread}: it is a thread of process {child.pid}; check the pid\n"
