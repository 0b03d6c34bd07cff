"""How `sockguard run` guards: --log, and --children with whatever starts a Python."""

import os
import shutil
import sys
from pathlib import Path

import pytest

from commands import SOCKGUARD, environment, run
from sockguard.cli.run_guard import FOLDER

pytestmark = pytest.mark.slow

IS_GUARDED = "'sockguard.patch' in sys.modules"
CHILD = f"""
import os, sys
guarded = {IS_GUARDED}
import sockguard
policy = sockguard.install().policy
print(guarded, policy.fin_timeout, policy.mode, [p for p in sys.path if "children" in p], sys.argv, flush=True)
"""
PARENT = """
import subprocess, sys
sys.exit(subprocess.run([sys.executable, {options}"-c", {child!r}, "a"]).returncode)
"""


def start_child_from(*words, child=CHILD, options="", **variables):
    """Runs a program with these options that starts a Python child."""
    return run("run", *words, "-c", PARENT.format(child=child, options=options), **variables)


def test_children_are_not_guarded_unasked():
    """Without --children the program's environment is that of the user, and a child is a bare Python."""
    outcome = run("run", "--fin-timeout=3", "-c", f"import os; print(dict(os.environ) == {environment()!r})")
    assert (outcome.out, outcome.err) == ("True\n", "")
    outcome = start_child_from("--fin-timeout=3")
    assert (outcome.out, outcome.err) == ("False 60.0 enforce [] ['-c', 'a']\n", "")


def test_children_are_guarded():
    """With --children a child is guarded by the same policy, and no path of ours is left in it."""
    outcome = start_child_from("--children", "--fin-timeout=3", "--mode=observe")
    assert (outcome.out, outcome.err) == ("True 3.0 observe [] ['-c', 'a']\n", "")


def test_grandchildren_are_guarded():
    """The environment goes on to children of children."""
    outcome = start_child_from("--children", "--fin-timeout=3", child=PARENT.format(child=CHILD, options=""))
    assert (outcome.out, outcome.err) == ("True 3.0 enforce [] ['-c', 'a']\n", "")


def test_option_wins_over_variable_in_children_too(tmp_path):
    """The layers are the same in a child: file, then variable, then option."""
    (tmp_path / "policy.toml").write_text("fin_timeout = 1\nmode = 'observe'\n")
    relative = os.path.relpath(tmp_path / "policy.toml")
    child = f"import os; os.chdir('/'); {CHILD}"
    outcome = start_child_from("--children", "--config", relative, child=child, SOCKGUARD_FIN_TIMEOUT="2")
    assert outcome.out == "True 2.0 observe [] ['-c', 'a']\n"
    words = ["--children", "--config", relative, "--fin-timeout=3"]
    assert start_child_from(*words, SOCKGUARD_FIN_TIMEOUT="2").out == "True 3.0 observe [] ['-c', 'a']\n"


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize("form", ["script", "-m"])
def test_children_of_multiprocessing(tmp_path, method, form, monkeypatch):
    """Children of each start method are guarded by the same policy."""
    (tmp_path / "program.py").write_text(
        "import multiprocessing, sys\n"
        f"def look(_):\n    guarded = {IS_GUARDED}\n    import sockguard\n"
        "    return guarded, sockguard.install().policy.fin_timeout\n"
        "if __name__ == '__main__':\n"
        f"    with multiprocessing.get_context({method!r}).Pool(1) as pool: print(pool.map(look, [1]))\n"
    )
    monkeypatch.chdir(tmp_path)
    words = ["-m", "program"] if form == "-m" else ["program.py"]
    python = [sys.executable, "-W", "error", "-m", "sockguard"]
    outcome = run("run", "--children", "--fin-timeout=3", *words, prefix=python)
    assert (outcome.status, outcome.out, outcome.err) == (0, "[(True, 3.0)]\n", "")


@pytest.mark.parametrize("options", ["'-I', ", "'-E', ", "'-S', "])
def test_child_that_ignores_the_environment(options):
    """A child with -I, -E or -S is left alone, and works."""
    looks = f"import sys; print({IS_GUARDED})"
    assert start_child_from("--children", child=looks, options=options).out == "False\n"


@pytest.mark.parametrize("option", ["-I", "-E", "-S"])
def test_children_of_an_isolated_python(option, tmp_path):
    """Where Python does not heed the environment, --children is refused, with the reason; nothing is started."""
    prefix = [sys.executable, option, "-c"]
    code = f"import sys; sys.path += {sys.path!r}; sys.argv = ['x', 'run', '--children', '-c', 'print(1)']\n"
    outcome = run(code + "from sockguard.__main__ import main; main()", prefix=prefix)
    assert (outcome.status, outcome.out, outcome.err.count("\n")) == (2, "", 1)
    assert "-E, -I or -S" in outcome.err


@pytest.mark.parametrize("theirs", ["{0}", "{0}:/nowhere", "/nowhere::{0}", "{0}:"])
def test_sitecustomize_of_the_user(tmp_path, theirs):
    """A sitecustomize that was found before still is, as the only one of that name; PYTHONPATH keeps its form."""
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.mark = __file__")
    child = f"import os, sys; print(sys.mark, sys.modules['sitecustomize'].__file__, {IS_GUARDED}, sys.path[1:4])"
    paths = theirs.format(tmp_path)
    outcome = start_child_from("--children", child=child, PYTHONPATH=paths)
    bare = run("-c", child, prefix=[sys.executable], PYTHONPATH=paths)
    assert outcome.err == bare.err == ""
    assert outcome.out == bare.out.replace("False", "True")


def test_sitecustomize_that_fails(tmp_path):
    """An error in the user's sitecustomize is reported by Python as ever, and the child is guarded all the same."""
    (tmp_path / "sitecustomize.py").write_text("1 / 0")
    looks = f"import sys; print('sitecustomize' in sys.modules, {IS_GUARDED})"
    outcome = start_child_from("--children", child=looks, PYTHONPATH=str(tmp_path))
    bare = run("-c", looks, prefix=[sys.executable], PYTHONPATH=str(tmp_path))
    assert outcome.out == "False True\n"
    assert outcome.err == 2 * bare.err  # once of each Python
    assert "ZeroDivisionError" in outcome.err


def test_no_sitecustomize_is_left_behind():
    """Where the user has none, the child has none."""
    assert start_child_from("--children", child="import sys; print('sitecustomize' in sys.modules)").out == "False\n"


def test_child_that_cannot_be_guarded():
    """A policy that was made nonsense for the child is reported by Python's own means, and the child runs."""
    parent = (
        "import os, subprocess, sys\nos.environ['SOCKGUARD_FIN_TIMEOUT'] = 'soon'\n"
        "subprocess.run([sys.executable, '-c', 'print(1)'])"
    )
    outcome = run("run", "--children", "-c", parent)
    assert outcome.out == "1\n"
    assert "Error in sitecustomize" in outcome.err
    assert "SOCKGUARD_FIN_TIMEOUT" in outcome.err


def test_run_within_run():
    """A guarded program may start another under `sockguard run`, whose own options count there."""
    inner = f"import subprocess, sys\nsubprocess.run({[*SOCKGUARD, 'run', '--fin-timeout=5', '-c', CHILD, 'a']!r})"
    outcome = run("run", "--children", "--fin-timeout=3", "-c", inner)
    assert (outcome.out, outcome.err) == ("True 5.0 enforce [] ['-c', 'a']\n", "")


def test_folder_is_named_once():
    """However often it is nested, PYTHONPATH has our folder once."""
    nested = [*SOCKGUARD, "run", "--children", "-c", "import os; print(os.environ['PYTHONPATH'])"]
    outcome = run("run", "--children", "-c", f"import subprocess; subprocess.run({nested!r})", PYTHONPATH="/nowhere")
    assert outcome.out == f"{FOLDER}:/nowhere\n"


LOGS = """
import logging, sys
logger = logging.getLogger("sockguard")
logger.info("told")
logger.warning("warned")
print(logging.root.handlers, logging.root.level, logger.propagate)
"""


@pytest.mark.parametrize(
    ("words", "said"),
    [(["--log"], ["warned"]), (["--log=ERROR"], []), (["--log", "info"], ["told", "warned"])],
    ids=" ".join,
)
def test_log_goes_to_stderr(words, said):
    """With --log what is reported is written to stderr from that level on; the root logger stays as it was."""
    outcome = run("run", *words, "-c", LOGS)
    assert outcome.out == "[] 30 True\n"
    assert [line.rpartition(" ")[2] for line in outcome.err.splitlines()] == said


def test_variable_that_is_no_setting():
    """It is told in the log that was asked for, with the name that was meant; without --log nothing is written."""
    outcome = run("run", "--log", "-c", "print('ran')", SOCKGUARD_FIN_TIMOUT="3")
    assert (outcome.status, outcome.out, outcome.err.count("\n")) == (0, "ran\n", 1)
    assert "WARNING sockguard: Policy SOCKGUARD_FIN_TIMOUT=3: " in outcome.err
    assert "SOCKGUARD_FIN_TIMEOUT" in outcome.err
    outcome = run("run", "-c", "print('ran')", SOCKGUARD_FIN_TIMOUT="3")
    assert (outcome.status, outcome.out, outcome.err) == (0, "ran\n", "")


def test_variable_that_is_no_setting_waits_for_the_log():
    """A program that sets its log up itself does so after the guard is there, and is told all the same."""
    outcome = run("run", "-c", "import logging; logging.basicConfig()", SOCKGUARD_FIN_TIMOUT="3")
    assert outcome.err.startswith("WARNING:sockguard:Policy SOCKGUARD_FIN_TIMOUT=3: ")


def test_detection_time_is_in_the_log():
    """At level debug the log begins with what the policy amounts to."""
    outcome = run("run", "--log=DEBUG", "--keepalive=10,5,2", "-c", "pass")
    assert "noticed by keepalive after 20.0 s" in outcome.err
    assert outcome.err.count("\n") == 1


def test_log_of_children():
    """With --log and --children, children write to stderr too."""
    outcome = start_child_from("--children", "--log=INFO", child=LOGS)
    assert [line.rpartition(" ")[2] for line in outcome.err.splitlines()] == ["told", "warned"]


@pytest.mark.parametrize("version", ["2.7", "3.6", "3.10"])
def test_old_python_passes_by(version):
    """A child that is too old a Python for sockguard is left alone, and works."""
    found = [*Path.home().glob(f".pyenv/versions/{version}.*/bin/python"), shutil.which(f"python{version}")]
    if not found[0]:
        pytest.skip(f"there is no Python {version} here")
    child = "import sys; print([name in sys.modules for name in ('sockguard', 'sitecustomize')])"
    outcome = run("run", "--children", "-c", f"import subprocess; subprocess.run([{str(found[0])!r}, '-c', {child!r}])")
    assert (outcome.out, outcome.err) == ("[False, False]\n", "")
