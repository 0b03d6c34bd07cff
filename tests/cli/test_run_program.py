"""A program under `sockguard run` cannot tell, and nor can who reads its output, that Python does not run it."""

import json
import os
import py_compile
import re
import signal
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest

from commands import environment
from waiting import eventually

pytestmark = pytest.mark.slow

RUN = (sys.executable, "-m", "sockguard", "run")
SCRIPT = Path(sys.executable).with_name("sockguard")
STARTS = [
    pytest.param(RUN, id="python-m-sockguard"),
    pytest.param(
        (str(SCRIPT), "run"),
        id="sockguard",
        marks=pytest.mark.skipif(not SCRIPT.exists(), reason="the command `sockguard` is not installed beside Python"),
    ),
]
WRITTEN_BY_PIP = """\
import re
import sys
from sockguard.__main__ import main
if __name__ == '__main__':
    sys.argv[0] = re.sub(r'(-script\\.pyw|\\.exe)?$', '', sys.argv[0])
    sys.exit(main())
"""
"""The command `sockguard`, as pip installs it."""
ADDRESS = re.compile("0x[0-9a-f]+")
FORMS = ["script", "-m", "-c", "-", "folder", "archive"]


class Ended(NamedTuple):
    """How a program ended and what it wrote."""

    status: int
    out: str
    err: str


def end_of(command, cwd, *, text="", **variables) -> Ended:
    done = subprocess.run(
        [*command], cwd=cwd, input=text, env=environment(**variables), capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    return Ended(done.returncode, *(ADDRESS.sub("0x", stream) for stream in (done.stdout, done.stderr)))


def write(folder, form, code) -> tuple[list[str], str]:
    """Writes a program in some form; gives the words that name it, and what its stdin should be."""
    (folder / "program.py").write_text(code)
    (folder / "folder").mkdir(exist_ok=True)
    (folder / "folder" / "__main__.py").write_text(code)
    with zipfile.ZipFile(folder / "archive", "w") as archive:
        archive.writestr("__main__.py", code)
    words = {"script": ["program.py"], "-m": ["-m", "program"], "-c": ["-c", code]}.get(form, [form])
    return words, code if form == "-" else ""


def run_both(folder, words, *, start=RUN, options=(), text="", **variables) -> tuple[Ended, Ended]:
    """Runs a program under `sockguard run` and by Python itself."""
    ours = [start[0], *options, *start[1:], *words]
    theirs = [sys.executable, *options, *words]
    return end_of(ours, folder, text=text, **variables), end_of(theirs, folder, text=text, **variables)


TELL = """
import json, os, sys
names = {key: repr(value) for key, value in globals().items() if key.startswith("__")}
here = sys._getframe().f_code.co_filename
print(json.dumps([names, sys.argv, sys.path, here, sys.modules["__main__"].__dict__ is globals(), os.getcwd(),
    sys.flags.safe_path, sys.getrecursionlimit(), sys.exc_info(), sys.excepthook is sys.__excepthook__]))
"""


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("options", [[], ["-P"]], ids=" ".join)
@pytest.mark.parametrize("form", FORMS)
def test_names_paths_and_arguments(tmp_path, form, options, start):
    """`__main__` and all its dunder names, sys.argv, sys.path, file names: all as Python sets them."""
    if options and start != RUN:
        pytest.skip("the options of the command's interpreter stand in its first line")
    words, text = write(tmp_path, form, TELL)
    variables = {"PYTHONPATH": str(tmp_path)} if options else {}  # else -m finds nothing
    ours, theirs = run_both(
        tmp_path, [*words, "-m", "--mode", ""], options=options, start=start, text=text, **variables
    )
    assert (ours.status, ours.err) == (0, "")
    assert json.loads(ours.out) == json.loads(theirs.out)


@pytest.mark.parametrize("path", ["./program.py", "../{}/program.py", "{}/program.py", "link.py"])
def test_path_of_a_script(tmp_path, path):
    """Dots, absolute paths and links are treated as Python treats them."""
    (tmp_path / "there").mkdir()
    write(tmp_path / "there", "script", TELL)
    write(tmp_path, "script", TELL)
    (tmp_path / "link.py").symlink_to("there/program.py")
    path = path.format(tmp_path.name if path.startswith("..") else tmp_path)
    ours, theirs = run_both(tmp_path, [path, "x"])
    assert (ours.status, ours) == (0, theirs)


def test_package_and_submodule(tmp_path):
    """With -m, a package runs its __main__, a submodule itself, with the package that relative imports need."""
    (tmp_path / "package").mkdir()
    for name in ("__init__", "other"):
        (tmp_path / "package" / f"{name}.py").write_text("")
    for name in ("__main__", "sub"):
        (tmp_path / "package" / f"{name}.py").write_text(TELL + "from . import other\nprint(other.__name__)")
    for module in ("package", "package.sub", "package.__main__"):
        ours, theirs = run_both(tmp_path, ["-m", module, "-x"])
        assert (ours.status, ours) == (0, theirs)


@pytest.mark.parametrize("has_main", [True, False])
@pytest.mark.parametrize("words", [[""], ["", "x"], ["."], ["./"], ["-c", ""], ["-c", "", "x"], ["-m", ""]], ids=repr)
def test_empty_name_and_the_like(tmp_path, words, has_main):
    """An empty word is one: code that does nothing, the working directory, or a module that is not there."""
    if has_main:
        (tmp_path / "__main__.py").write_text(TELL)
    ours, theirs = run_both(tmp_path, words)
    assert ours == theirs


def test_compiled_script(tmp_path):
    """A script may be bytecode, as with Python."""
    write(tmp_path, "script", TELL)
    py_compile.compile(str(tmp_path / "program.py"), str(tmp_path / "compiled.pyc"))
    ours, theirs = run_both(tmp_path, ["compiled.pyc"])
    assert (ours.status, ours) == (0, theirs)


ENDINGS = {
    "end of the file": "print('out')",
    "status": "import sys; sys.exit(3)",
    "status 0": "import sys; sys.exit(0)",
    "no status": "import sys; sys.exit()",
    "negative": "import sys; sys.exit(-1)",
    "text": "import sys; sys.exit('text')",
    "object": "raise SystemExit(1.5)",
    "at once": "import os; os._exit(7)",
    "exception": "def f():\n    1 / 0\nprint('out')\nf()",
    "no Exception": "raise GeneratorExit",
    "cause": "try:\n    1 / 0\nexcept ZeroDivisionError as error:\n    raise KeyError(1) from error",
    "context": "try:\n    1 / 0\nexcept ZeroDivisionError:\n    raise KeyError(1)",
    "group": "raise ExceptionGroup('x', [ValueError(1), ExceptionGroup('y', [KeyError(2)])])",
    "note": "error = ValueError(1)\nerror.add_note('note')\nraise error",
    "cannot be shown": "class E(Exception):\n    def __str__(self): 1 / 0\nraise E",
    "syntax": "if True print()",
    "indentation": "if True:\nprint()",
    "import": "import no_such_module",
    "interrupt": "raise KeyboardInterrupt('x')",
    "signal to itself": "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nimport time; time.sleep(9)",
    "killed": "import os, signal\nos.kill(os.getpid(), signal.SIGTERM)\nimport time; time.sleep(9)",
    "warning": "import warnings\nwarnings.warn('x')",
    "without frames": "import sys\nsys.tracebacklimit = 0\n1 / 0",
    "no stderr": "import sys\nsys.stderr = None\n1 / 0",
    "stdout closed": "import sys\nsys.stdout.close()",
    "not ASCII": "ß = '\u20ac'\nprint(ß)\nraise ValueError(ß)",
    "in a thread": "import threading\nt = threading.Thread(target=lambda: 1 / 0, name='t')\nt.start()\nt.join()",
    "thread goes on": (
        "import threading, time\nprint('main')\n"
        "def later():\n    time.sleep(0.2)\n    print('thread')\nthreading.Thread(target=later).start()\n1 / 0"
    ),
    "hook": (
        "import sys\ndef hook(kind, error, trace):\n"
        "    print(kind, error, trace.tb_frame.f_code.co_name)\n"
        "    print(trace is error.__traceback__, trace is sys.last_traceback)\n"
        "    print(sys.excepthook is hook, sys.exc_info())\n"
        "sys.excepthook = hook\n1 / 0"
    ),
    "hook that fails": "import sys\ndef hook(*a): [][1]\nsys.excepthook = hook\n1 / 0",
    "hook that exits": "import sys\ndef hook(*a): sys.exit(9)\nsys.excepthook = hook\n1 / 0",
    "hook that is none": "import sys\nsys.excepthook = None\n1 / 0",
    "exit functions": (
        "import atexit, sys\natexit.register(print, 'first')\n"
        "atexit.register(lambda: print(sys.last_value, sys.last_traceback is sys.last_value.__traceback__))\n1 / 0"
    ),
    "exit function that fails": "import atexit\natexit.register(lambda: 1 / 0)",
    "exit function and thread": (
        "import atexit, threading, time\natexit.register(print, 'exit')\n"
        "threading.Thread(target=lambda: (time.sleep(0.2), print('thread'))).start()"
    ),
    "finalizers": (
        "import atexit\nclass A:\n    def __init__(self, name): self.name = name\n"
        "    def __del__(self): print('del', self.name, __name__, f is not None)\n"
        "def f(): return a, b\na = A('a')\nb = A('b')\nb.self = b\natexit.register(print, 'exit')\nprint('end')"
    ),
    "module that goes": (
        "import __main__, sys, weakref\n"
        "class A:\n    def __del__(self): print('del', sys is not None)\na = A()\n"
        "sys.kept = weakref.ref(__main__, lambda _: print('gone'))\ndel __main__"
    ),
    "other main": "import sys\nsys.modules['__main__'] = 42\nprint(__name__)",
    "stack": "import sys\nprint(sys._getframe().f_code.co_name, sys._getframe().f_globals is globals())",
}


OF_ALL_FORMS = [
    "status",
    "text",
    "exception",
    "syntax",
    "group",
    "signal to itself",
    "thread goes on",
    "hook that fails",
]
"""Endings that pass through the code of a form; the others are the same for all."""


@pytest.mark.parametrize(
    ("ending", "form"),
    [*((ending, "script") for ending in ENDINGS), *((ending, form) for ending in OF_ALL_FORMS for form in FORMS[1:])],
)
def test_ends_as_under_python(tmp_path, ending, form):
    """Status, stdout and stderr, byte by byte, are those of Python itself, however a program ends."""
    words, text = write(tmp_path, form, ENDINGS[ending])
    ours, theirs = run_both(tmp_path, words, text=text)
    assert ours == theirs


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("ending", ["status", "text", "exception", "syntax", "signal to itself", "thread goes on"])
def test_ends_as_under_python_however_started(tmp_path, ending, start):
    """The command `sockguard` and `python -m sockguard` are the same in that."""
    words, text = write(tmp_path, "script", ENDINGS[ending])
    ours, theirs = run_both(tmp_path, words, start=start, text=text)
    assert ours == theirs


CANNOT_BE_COMPILED = {
    "syntax": b"if True print()",
    "indentation": b"if True:\nprint()",
    "null byte": b"print()\0\n",
    "encoding": b"print('\xe9')",
}


@pytest.mark.parametrize("program", CANNOT_BE_COMPILED)
def test_cannot_be_compiled_under_the_command(tmp_path, program):
    """Python goes on with the names of the command's own `__main__` after such an end: they are still there.

    Freed memory is overwritten here, or it might end well by chance. Of bytes that are no text at all,
    what Python says of a file cannot be had from inside of it, only the kind of the error.
    """
    (tmp_path / "program.py").write_bytes(CANNOT_BE_COMPILED[program])
    command = tmp_path / "sockguard"
    command.write_text(WRITTEN_BY_PIP)
    start = (sys.executable, str(command), "run")
    ours, theirs = run_both(tmp_path, ["program.py"], start=start, PYTHONMALLOC="debug")
    assert (ours.status, ours.out) == (1, "")
    if program in {"syntax", "indentation"}:
        assert ours.err == theirs.err
    else:
        assert ours.err.splitlines()[-1].startswith("SyntaxError: ")


@pytest.mark.parametrize("status", ["exception", "end of the file"])
def test_streams_are_in_order(tmp_path, status):
    """What was printed before a traceback stands before it where both streams are one, as with Python."""
    write(tmp_path, "script", ENDINGS[status])
    merged = [
        subprocess.run(
            [*start, "program.py"], cwd=tmp_path, stdout=-1, stderr=-2, env=environment(), check=False
        ).stdout
        for start in (RUN, [sys.executable])
    ]
    assert merged[0] == merged[1]
    assert merged[0].startswith(b"out\n")


@pytest.mark.parametrize(
    "words",
    [
        ["no_such.py"],
        ["there/no_such.py"],
        ["forbidden.py/x"],
        ["empty"],
        ["-m", "no_such_module"],
        ["-m", "no_such_package.module"],
        ["-m", "empty"],
        ["-m", "email"],
        ["-m", "program.py"],
        ["-m", ".program"],
        ["-m", "sys"],
        ["-m", "email.no_such"],
    ],
    ids=" ".join,
)
def test_program_that_is_not_there(tmp_path, words):
    """What does not exist, or cannot be run, is told in Python's words, with Python's status."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "forbidden.py").write_text("")
    (tmp_path / "program.py").write_text("")
    ours, theirs = run_both(tmp_path, words)
    assert (ours.status in (1, 2), ours) == (True, theirs)


@pytest.fixture
def _not_ignored(number):
    """A child inherits what is ignored: SIGINT and SIGQUIT in the background of a shell, SIGHUP below nohup."""
    before = signal.signal(number, signal.SIG_DFL)
    yield
    signal.signal(number, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
@pytest.mark.usefixtures("_not_ignored")
def test_dies_of_a_signal_as_python_does(tmp_path, number):
    """A signal from outside ends a waiting program in the same way, with the same last words."""
    (tmp_path / "program.py").write_text("import time\nprint('ready', flush=True)\ntime.sleep(60)\n")
    ends = []
    for start in (RUN, [sys.executable]):
        command = [*start, "program.py"]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with subprocess.Popen(command, cwd=tmp_path, env=environment(), text=True, **pipes) as process:
            assert process.stdout.readline() == "ready\n"
            eventually(lambda pid=process.pid: " S " in Path(f"/proc/{pid}/stat").read_text())
            process.send_signal(number)
            out, err = process.communicate(timeout=30)
        ends.append(Ended(process.returncode, out, err))
    assert ends[0] == ends[1]
    assert ends[0].status == -number


def test_signals_and_streams_are_as_they_were(tmp_path):
    """Which signals are handled, ignored or blocked, and what the streams are: as with Python."""
    (tmp_path / "program.py").write_text(
        "import signal, sys\n"
        "print({str(s): str(signal.getsignal(s)) for s in signal.valid_signals()})\n"
        "print([line for line in open('/proc/thread-self/status') if line[:6] in ('SigBlk', 'SigIgn')])\n"
        "print(sys.stdin, sys.stdout, sys.stderr, sys.stdin.read())\n"
    )
    ours, theirs = run_both(tmp_path, ["program.py"], text="from stdin")
    assert (ours.status, ours) == (0, theirs)


def test_what_is_loaded(tmp_path):
    """The program finds loaded what Python and the guard load, and nothing else; above all nothing heavy."""
    code = "import sys\nprint(*sorted(sys.modules))"
    write(tmp_path, "script", code)
    bare = ["program.py"], ["-m", "program"], ["-c", f"import sockguard; sockguard.install()\n{code}"]
    expected = {name for words in bare for name in end_of([sys.executable, *words], tmp_path).out.split()}
    found = set(end_of([*RUN, "program.py"], tmp_path).out.split())
    assert {name for name in found - expected if not name.startswith("sockguard.")} == set()
    heavy = "click rich ssl asyncio anyio structlog logging argparse subprocess tomllib sitecustomize linecache"
    assert found & set(heavy.split()) <= expected


def test_nothing_heavy_is_loaded(tmp_path):
    """Not even the guard loads what a program may want to patch, or do without."""
    heavy = {"click", "rich", "ssl", "asyncio", "anyio", "structlog", "logging", "argparse", "tomllib"}
    ended = end_of([*RUN, "-c", f"import sys; print({heavy} & set(sys.modules))"], tmp_path)
    assert ended == (0, "set()\n", "")


POOL = """
import multiprocessing, pickle
class Kept:
    def __init__(self, value): self.value = value
def double(kept): return Kept(2 * kept.value), __name__ in ("__main__", "__mp_main__")
if __name__ == "__main__":
    print(pickle.loads(pickle.dumps(Kept(1))).value, Kept.__module__)
    for method in ("fork", "spawn", "forkserver"):
        with multiprocessing.get_context(method).Pool(2) as pool:
            print(method, [(kept.value, known) for kept, known in pool.map(double, [Kept(1), Kept(2)])])
"""


@pytest.mark.parametrize("form", ["script", "-m"])
def test_multiprocessing(tmp_path, form):
    """Classes and functions of the main module can be pickled, and are found by children of each kind."""
    words, _ = write(tmp_path, form, POOL)
    ours, theirs = run_both(tmp_path, words)
    assert (ours.status, ours) == (0, theirs)
    assert ours.out.count("True") == 6


@pytest.mark.parametrize("form", FORMS)
def test_fork_without_a_warning(tmp_path, form):
    """A fork does not find the guard's thread (Python 3.12 warns of threads), and its child ends as any other."""
    words, text = write(
        tmp_path, form,
        "import os, sys, warnings\nwarnings.simplefilter('error')\n"
        "for status in (3, 4):\n"
        "    pid = os.fork()\n"
        "    if not pid: sys.exit(status)\n"
        "    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)\n",
    )  # fmt: skip
    ours, theirs = run_both(tmp_path, words, options=["-W", "error", "-X", "dev"], text=text)
    assert (ours.out, ours) == ("3\n4\n", theirs)


def test_reads_its_own_stdin(tmp_path):
    """Not a byte of stdin is taken before the program reads it."""
    (tmp_path / "program.py").write_text("import os\nprint(os.read(0, 3), input(), input())")
    ours, theirs = run_both(tmp_path, ["program.py"], text="abcdef\nghi\n")
    assert (ours.out, ours) == ("b'abc' def ghi\n", theirs)


def test_deleted_working_directory(tmp_path):
    """A script with an absolute path runs where there is no working directory any more."""
    (tmp_path / "program.py").write_text("import sys\nprint(sys.argv, __file__)")
    (tmp_path / "gone").mkdir()
    ends = []
    for start in (RUN, [sys.executable]):
        line = f"cd gone && rmdir ../gone; {' '.join(start)} {tmp_path}/program.py"
        ends.append(end_of(["sh", "-c", line], tmp_path))
        (tmp_path / "gone").mkdir(exist_ok=True)
    assert (ends[0].status, ends[0]) == (0, ends[1])


def test_output_that_cannot_be_written(tmp_path):
    """A full disk at the last flush is reported as Python reports it."""
    (tmp_path / "program.py").write_text("print('x')")
    ends = []
    for start in (RUN, [sys.executable]):
        with open("/dev/full", "w") as full:
            done = subprocess.run(
                [*start, "program.py"], cwd=tmp_path, stdout=full, stderr=-1, env=environment(), check=False
            )
        ends.append((done.returncode, done.stderr))
    assert ends[0] == ends[1]


def test_under_a_debugger_or_the_like(tmp_path):
    """Where another tool runs us, as `coverage run` and cProfile do, exceptions get to it."""
    (tmp_path / "program.py").write_text("import sys\nprint(sys.argv)\nraise ValueError('x')")
    outer = (
        "import os, runpy, sys\nsys.argv = ['x', 'run', 'program.py', 'a']\n"
        "try: runpy.run_module('sockguard', run_name='__main__', alter_sys=True)\n"
        "except ValueError as error: print('caught', error)\n"
    )
    ended = end_of([sys.executable, "-c", outer], tmp_path)
    assert ended == (0, "['program.py', 'a']\ncaught x\n", "")
    assert not os.environ.get("PYTHONINSPECT")
