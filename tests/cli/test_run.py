"""`sockguard run`: its options, its help, and what it says of mistakes. The program is another file's affair."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import sockguard
from commands import SOCKGUARD, environment, run
from sockguard._core.policy import Policy
from sockguard.cli.run import help_text, parse, program_of, wish_of
from sockguard.errors import UsageError

SHOW = "import sockguard, sys; print(sys.argv[1:], sockguard.install().policy.{})"
"""A program that tells its arguments, and a field of the policy that it runs under."""


def show(field: str) -> list[str]:
    return ["-c", SHOW.format(field), "--mode", "-h", "x"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["x.py"], ("", "x.py", [])),
        (["x.py", "--mode", "-m", "--", "a b", ""], ("", "x.py", ["--mode", "-m", "--", "a b", ""])),
        (["-m", "x", "-c"], ("-m", "x", ["-c"])),
        (["-mx", "y"], ("-m", "x", ["y"])),
        (["-c", "1 / 0", "-m"], ("-c", "1 / 0", ["-m"])),
        (["-cpass"], ("-c", "pass", [])),
        (["-c", "", "x"], ("-c", "", ["x"])),
        (["-m", ""], ("-m", "", [])),
        (["", "x"], ("", "", ["x"])),
        (["-", "x"], ("", "-", ["x"])),
        (["--", "x.py"], ("", "x.py", [])),
        (["--", "-m", "x"], ("-m", "x", [])),
        (["--children", "--log", "x.py", "--children"], ("", "x.py", ["--children"])),
        (["--fin-timeout", "2", "x.py"], ("", "x.py", [])),
        (["--fin-timeout=2", "x.py"], ("", "x.py", [])),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_program_is_found(words, expected):
    """The first word that is no option is the program, in any form that Python knows; the rest is its own."""
    assert program_of(parse(words).rest) == expected


@pytest.mark.parametrize("form", [["--{}", "{}"], ["--{}={}"]], ids=" ".join)
@pytest.mark.parametrize("field", Policy.kinds())
def test_each_field_is_an_option(field, form):
    """Every field of the policy can be given, spelled with hyphens, with and without an equals sign."""
    words = [part.format(*pair) for part, pair in zip(form, [[field.replace("_", "-"), "off"], ["off"]], strict=False)]
    request = parse([*words, "x.py"])
    assert (request.texts, request.rest) == ({field: "off"}, ["x.py"])


@pytest.mark.parametrize(
    ("words", "level"),
    [
        ([], ""),
        (["--log"], "WARNING"),
        (["--log", "debug"], "DEBUG"),
        (["--log=Info"], "INFO"),
        (["--log", "INFO"], "INFO"),
        (["--log", "--children"], "WARNING"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_level_of_the_log(words, level):
    """--log may have a level after it, or be alone before the program or another option."""
    request = parse([*words, "x.py"])
    assert (wish_of(request).level, request.rest) == (level, ["x.py"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "which program?"),
        (["--mode", "observe"], "which program?"),
        (["--"], "which program?"),
        (["-m"], "-m needs a value"),
        (["-c"], "-c needs a value"),
        (["--fin-timeout"], "--fin-timeout needs a value"),
        (["--fin-timeout", "--mode", "observe", "x.py"], "--fin-timeout needs a value"),
        (["--config"], "--config needs a value"),
        (["--fin-timout", "2", "x.py"], "the nearest is --fin-timeout"),
        (["--childern", "x.py"], "the nearest is --children"),
        (["--no-such-thing-at-all", "x.py"], "sockguard run --help has all"),
        (["--children=yes", "x.py"], "--children takes no value"),
        (["--log=LOUD", "x.py"], "give one of DEBUG, INFO"),
        (["-W", "error", "x.py"], "python -W -m sockguard run"),
        (["---", "x.py"], "no such option: ---"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistake_in_the_words(words, said):
    """Each mistake is named with its remedy."""

    def take_apart():
        request = parse(words)
        program_of(request.rest)
        wish_of(request)

    with pytest.raises(UsageError, match=re.escape(said)):
        take_apart()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--fin-timeout", "soon"], ["fin_timeout='soon'", "seconds"]),
        (["--fin-timeout=-1"], ["fin_timeout=-1", "seconds"]),
        (["--mode", "watch"], ["mode='watch'", "'enforce' or 'observe'"]),
        (["--keepalive=1,2"], ["keepalive='1,2'"]),
        (["--no-such-option"], ["--no-such-option"]),
        (["--config", "/nowhere/policy.toml"], ["/nowhere/policy.toml", "No such file"]),
        (["--log=LOUD"], ["LOUD", "WARNING"]),
    ],
    ids=" ".join,
)
def test_mistake_is_one_line_and_nothing_runs(words, said):
    """A policy or an option that makes no sense is one line with value and remedy, status 2; no program is started."""
    outcome = run("run", *words, "-c", "print('started')")
    assert (outcome.status, outcome.out, outcome.err.count("\n")) == (2, "", 1)
    assert outcome.err.startswith("sockguard: ")
    assert all(part in outcome.err for part in said), outcome.err


@pytest.mark.slow
def test_variable_that_makes_no_sense():
    """A mistake in the environment is refused at start too, by the name of the variable."""
    outcome = run("run", "-c", "print('started')", SOCKGUARD_FIN_TIMEOUT="soon")
    assert (outcome.status, outcome.out, outcome.err.count("\n")) == (2, "", 1)
    assert "SOCKGUARD_FIN_TIMEOUT" in outcome.err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "variables", "field", "value"),
    [
        ([], {}, "fin_timeout", "60.0"),
        (["--fin-timeout", "2"], {}, "fin_timeout", "2.0"),
        (["--fin-timeout=off", "--mode=observe"], {}, "fin_timeout", "None"),
        (["--mode", "observe"], {}, "mode", "observe"),
        (["--keepalive", "off"], {}, "keepalive", "None"),
        ([], {"SOCKGUARD_FIN_TIMEOUT": "3"}, "fin_timeout", "3.0"),
        (["--fin-timeout", "2"], {"SOCKGUARD_FIN_TIMEOUT": "3"}, "fin_timeout", "2.0"),
        (["--mode", "observe"], {"SOCKGUARD_FIN_TIMEOUT": "3"}, "fin_timeout", "3.0"),
    ],
)
def test_program_runs_under_the_policy(words, variables, field, value):
    """The policy of the options is that of the guard; of variables, it is where no option says otherwise."""
    outcome = run("run", *words, *show(field), **variables)
    assert (outcome.status, outcome.out, outcome.err) == (0, f"['--mode', '-h', 'x'] {value}\n", "")


@pytest.mark.slow
def test_policy_from_a_file(tmp_path):
    """Of file, variable and option, the later of these wins, field by field."""
    file = tmp_path / "policy.toml"
    file.write_text("fin_timeout = 1\nidle_timeout = 1\nread_idle_timeout = 1\n")
    words = ["run", "--config", file, "--read-idle-timeout", "3"]
    fields = ("fin_timeout", "idle_timeout", "read_idle_timeout")
    outcomes = [run(*words, *show(field), SOCKGUARD_IDLE_TIMEOUT="2") for field in fields]
    assert [outcome.out.split()[-1] for outcome in outcomes] == ["1.0", "2.0", "3.0"]


def test_help_has_every_field():
    """The help explains all options and all fields of the policy, each with its default, in lines of 100 columns."""
    text = help_text()
    for name in [*(field.replace("_", "-") for field in Policy.kinds()), "children", "config", "log", "help"]:
        assert f"\n  --{name}" in text
    assert len(re.findall(r"\(default:\s", text)) == len(Policy.kinds())
    assert max(map(len, text.splitlines())) <= 100


@pytest.mark.slow
@pytest.mark.parametrize("words", [["-h"], ["--help"], ["--children", "--help", "no_such_script.py"]], ids=" ".join)
def test_help_is_printed(words):
    """Help is on stdout with status 0, whatever else is asked for."""
    outcome = run("run", *words)
    assert (outcome.status, outcome.out, outcome.err) == (0, help_text(), "")


@pytest.mark.slow
def test_help_to_a_reader_that_has_left():
    """Into a pipe that nobody reads any more, help ends without a word."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    done = subprocess.run(
        [*SOCKGUARD, "run", "--help"], stdout=write_end, stderr=subprocess.PIPE, env=environment(), check=False
    )
    os.close(write_end)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.slow
def test_works_without_the_extra(tmp_path):
    """Neither click nor rich is needed; of other packages only wrapt is."""
    import wrapt  # noqa: PLC0415

    for package in (sockguard, wrapt):
        (tmp_path / package.__name__).symlink_to(Path(package.__file__).parent)
    bare = [sys.executable, "-S", "-P", "-m", "sockguard"]
    code = "import sys; print(sorted({'click', 'rich'} & set(sys.modules)))"
    outcome = run("run", "-c", code, prefix=bare, PYTHONPATH=str(tmp_path))
    assert (outcome.status, outcome.out, outcome.err) == (0, "[]\n", "")


@pytest.mark.slow
def test_not_for_the_parser_of_the_others():
    """Where `run` is not the first word, the other commands' parser says in one line that it does not know it."""
    outcome = run("--", "run", "x.py")
    assert (outcome.status, outcome.out, outcome.err.count("\n")) == (2, "", 1)
