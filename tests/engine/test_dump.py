"""A dump on a signal: what is in it, that it comes from anywhere, and that the handlers are put back exactly."""

import _thread
import io
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import sockguard
from interpreters import EACH_PYTHON, run_program
from sockguard._core.events import EventName, make_event
from sockguard._engine import dump
from sockguard._engine.dump import event_lines, register, render_dump, set_source, unregister, unregister_all
from sockguard.errors import UsageError
from waiting import eventually

USR1, USR2 = signal.SIGUSR1, signal.SIGUSR2
NO_GUARD = "No guard is installed in this process (sockguard.install), so no connections are known.\n"


@pytest.fixture(autouse=True)
def _handlers_as_before():
    """Nothing stays registered, and no source set; a dump may come late."""
    yield
    for handler in tuple(dump._registered.values()):  # noqa: SLF001 - a dump that is late would ask the next test's source
        assert handler._writing.acquire(timeout=20)  # noqa: SLF001
        handler._writing.release()  # noqa: SLF001
    unregister_all()
    set_source(None)
    assert (signal.getsignal(USR1), signal.getsignal(USR2)) == (signal.SIG_DFL, signal.SIG_DFL)


@pytest.fixture(params=["bare", "traced"])
def _both_kinds_of_thread(request, monkeypatch):
    """The dump is written on a bare thread, and on one of `threading`, as tools that trace lines see only those."""
    if request.param == "traced":
        start = _thread.start_new_thread

        def start_traced(function, arguments, *more):
            if getattr(function, "__module__", "") != "sockguard._engine.dump":
                return start(function, arguments, *more)
            return threading.Thread(target=function, args=arguments).start()

        monkeypatch.setattr(_thread, "start_new_thread", start_traced)


class Page(io.StringIO):
    """A file in memory that is full once its last line is there."""

    def read_all(self, last: str = NO_GUARD) -> str:
        return eventually(lambda: self.getvalue().endswith(last) and self.getvalue())


def dump_of(page: Page, signum: int = USR1, last: str = NO_GUARD) -> str:
    signal.raise_signal(signum)
    return page.read_all(last)


# What is rendered


def test_sections_have_headings_with_their_number():
    """A dump is a title and sections; one that is empty says so."""
    assert render_dump("title", {"threads": ["a\n    b", "c"], "leaks": iter(())}) == (
        "title\n\nthreads (2)\n  a\n    b\n  c\n\nleaks (0)\n  None.\n"
    )


def test_events_are_told_by_how_long_ago_they_were():
    """The last events stand in a dump with their age, level, name and sentence."""
    event = make_event(EventName.POLICY_WARNING, field="idle_timeout", value=1, text="short.")
    assert event_lines([(10.0, event)], 12.34) == ["2.3 s ago, warning: policy_warning: Policy idle_timeout=1: short."]


@pytest.mark.usefixtures("_both_kinds_of_thread")
def test_dump_has_title_threads_and_the_guards_part():
    """On the signal, the file gets the process and the time, where each thread stands, and what the guard tells."""
    page, is_over = Page(), threading.Event()
    thread = threading.Thread(target=is_over.wait, name="worker-7")
    thread.start()
    set_source(lambda: "the guard's part")
    register(USR1, file=page)
    text = dump_of(page, last="the guard's part\n")
    is_over.set()
    thread.join()
    title = rf"sockguard: dump of process {os.getpid()} at \d{{4}}-\d\d-\d\dT\d\d:\d\d:\d\dZ\n\nthreads \(\d+\)\n  "
    assert re.match(title + rf"MainThread \({threading.get_ident()}\)\n    \S*test_dump.py:\d+ in dump_of\n", text)
    assert re.search(r"  worker-7 \(\d+\)\n    \S*threading.py:\d+ in wait\n", text)
    assert text.endswith("\n\nthe guard's part\n")


def test_threads_that_threading_does_not_know_are_shown():
    """A bare thread, such as the guard's, has a number and no name."""
    page, has_begun, may_end = Page(), _thread.allocate_lock(), _thread.allocate_lock()
    has_begun.acquire()
    may_end.acquire()

    def bare() -> None:
        has_begun.release()
        may_end.acquire()

    ident = _thread.start_new_thread(bare, ())
    has_begun.acquire()
    register(USR1, file=page)
    text = dump_of(page)
    may_end.release()
    assert re.search(rf"  not of threading \({ident}\)\n    \S*test_dump.py:\d+ in bare\n", text)


def test_deep_stacks_are_cut():
    """Of a deep recursion the innermost calls are shown."""
    page = Page()
    register(USR1, file=page)

    def down(n: int) -> None:
        if n:
            down(n - 1)
        else:
            signal.raise_signal(USR1)

    down(100)
    assert page.read_all().count(" in down\n") == 30


@pytest.mark.usefixtures("_both_kinds_of_thread")
def test_source_that_raises_spoils_nothing_else():
    """The threads are in the dump although the guard cannot be described."""
    page = Page()
    set_source(lambda: str(1 / 0))
    register(USR1, file=page)
    text = dump_of(page, last="The guard could not be described: ZeroDivisionError: division by zero\n")
    assert "threads (" in text


# Where it goes


@pytest.mark.usefixtures("_both_kinds_of_thread")
def test_standard_error_is_looked_up_when_the_signal_comes(monkeypatch):
    """Without a file the dump goes to what `sys.stderr` is by then; where there is none by then, nowhere."""
    page = Page()
    signal.signal(USR1, signal.SIG_IGN)
    register(USR1, chain=True)  # so that it waits until the dump is written
    for stderr in (page, None):
        monkeypatch.setattr(sys, "stderr", stderr)
        signal.raise_signal(USR1)
    assert page.getvalue().count("sockguard: dump") == 1
    unregister(USR1)
    signal.signal(USR1, signal.SIG_DFL)


@pytest.mark.usefixtures("_both_kinds_of_thread")
def test_file_may_be_a_descriptor(tmp_path):
    """A descriptor is written to as it is."""
    path = tmp_path / "dump"
    fd = os.open(path, os.O_CREAT | os.O_WRONLY)
    register(USR1, file=fd)
    signal.raise_signal(USR1)
    eventually(lambda: path.read_text().endswith(NO_GUARD))
    os.close(fd)


@pytest.mark.usefixtures("_both_kinds_of_thread")
def test_file_may_be_binary():
    """A file of bytes takes the dump too; one without `flush` is no trouble."""

    class Binary:
        data = b""

        def write(self, data: bytes) -> None:
            self.data += data  # a str raises TypeError

    binary = Binary()
    register(USR1, file=binary)  # type: ignore[arg-type]
    signal.raise_signal(USR1)
    eventually(lambda: binary.data.endswith(NO_GUARD.encode()))


def test_no_encoding_can_refuse_it(tmp_path):
    """What is not ASCII is escaped, as faulthandler does, so that a file of any encoding takes it."""
    path = tmp_path / "dump"
    set_source(lambda: "caf\N{LATIN SMALL LETTER E WITH ACUTE} \udc80 end")
    with path.open("w", encoding="ascii") as file:
        register(USR1, file=file)
        signal.raise_signal(USR1)
        eventually(lambda: path.read_text().endswith("caf\\xe9 \\udc80 end\n"))


class Broken:
    """A file that fails."""

    def __init__(self) -> None:
        self.n_calls = 0

    def write(self, _: str) -> None:
        self.n_calls += 1
        raise OSError


@pytest.mark.usefixtures("_both_kinds_of_thread")
def test_broken_file_raises_nothing_into_the_program(tmp_path, capfd):
    """A full disk, a closed file or a closed descriptor does not disturb the program, nor the next dump."""
    closed = (tmp_path / "closed").open("w")
    closed.close()
    fd = os.open(tmp_path / "fd", os.O_CREAT | os.O_WRONLY)
    os.close(fd)
    for file in (broken := Broken(), closed, fd):
        register(USR1, file=file)
        signal.raise_signal(USR1)
    eventually(lambda: broken.n_calls)
    register(USR1, file=(page := Page()))
    dump_of(page)
    assert capfd.readouterr() == ("", "")


# Registering


def test_unregistering_puts_the_handler_back_exactly():
    """`unregister` is the inverse, and says whether there was anything to undo."""

    def theirs(*_: object) -> None: ...

    signal.signal(USR1, theirs)
    assert not unregister(USR1)
    register(USR1, file=Page())
    assert signal.getsignal(USR1) is not theirs
    assert unregister(USR1)
    assert signal.getsignal(USR1) is theirs
    assert not unregister(USR1)
    signal.signal(USR1, signal.SIG_DFL)


def test_registering_again_changes_the_file_and_keeps_the_way_back():
    """The second `register` of a signal does not take the first one for the program's handler."""
    first, second = Page(), Page()
    signal.signal(USR1, signal.SIG_IGN)
    register(USR1, file=first)
    register(USR1, file=second)
    dump_of(second)
    assert first.getvalue() == ""
    unregister(USR1)
    assert signal.getsignal(USR1) is signal.SIG_IGN
    signal.signal(USR1, signal.SIG_DFL)


def test_handler_that_the_program_set_since_stays():
    """Whoever took the signal over keeps it."""

    def theirs(*_: object) -> None: ...

    register(USR1, file=Page())
    signal.signal(USR1, theirs)
    assert unregister(USR1)
    assert signal.getsignal(USR1) is theirs
    signal.signal(USR1, signal.SIG_DFL)


def test_all_are_unregistered_at_once():
    """Every signal gets its handler back."""
    for signum in (USR1, USR2):
        register(signum, file=Page())
    unregister_all()
    assert [signal.getsignal(s) for s in (USR1, USR2)] == [signal.SIG_DFL] * 2
    assert not unregister(USR2)


@pytest.mark.parametrize(
    ("signum", "why"),
    [
        (0, "there is no such signal"),
        (-1, "there is no such signal"),
        (10_000, "there is no such signal"),
        (signal.SIGKILL, "SIGKILL cannot be handled"),
        (signal.SIGSTOP, "SIGSTOP cannot be handled"),
        (signal.SIGSEGV, "after SIGSEGV no Python code can run; faulthandler.enable() is for that"),
    ],
)
def test_signals_that_cannot_be_are_refused(signum, why):
    """A signal that does not exist or cannot be handled is an error that says why, as in faulthandler a ValueError."""
    for function in (register, unregister):
        with pytest.raises(UsageError, match=re.escape(why)):
            function(signum)
        with pytest.raises(TypeError):
            function("SIGUSR1")  # type: ignore[arg-type]


def test_file_that_cannot_be_written_to_is_refused(monkeypatch):
    """Nowhere to write to is an error at once, not when the signal comes."""
    with pytest.raises(UsageError, match=r"give a file or a descriptor$"):
        register(USR1, file="dump.txt")  # type: ignore[arg-type]
    monkeypatch.setattr(sys, "stderr", None)
    with pytest.raises(UsageError, match=r"there is no sys\.stderr"):
        register(USR1)


def test_handler_that_is_not_pythons_is_left_alone(monkeypatch):
    """A handler that C code has set could not be put back; so it is not replaced."""
    monkeypatch.setattr(signal, "getsignal", lambda _: None)
    with pytest.raises(UsageError, match=r"could not be put back; choose another signal$"):
        register(USR1, file=Page())
    monkeypatch.undo()


def test_only_the_main_thread_can_register():
    """Python allows it in the main thread only, and says so; nothing is half registered then."""
    errors: list[Exception] = []

    def elsewhere() -> None:
        try:
            register(USR1, file=Page())
        except ValueError as error:
            errors.append(error)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert len(errors) == 1
    assert not unregister(USR1)


# Chaining


def test_chain_calls_the_handler_that_was_there():
    """With `chain`, the program's handler is called as if we were not there, after the dump was written."""
    page, calls = Page(), []
    signal.signal(USR1, lambda signum, frame: calls.append((signum, frame is not None, page.getvalue()[-10:])))
    register(USR1, file=page, chain=True)
    signal.raise_signal(USR1)
    assert calls == [(USR1, True, NO_GUARD[-10:])]
    register(USR1, file=page)
    signal.raise_signal(USR1)
    assert len(calls) == 1
    unregister(USR1)
    signal.signal(USR1, signal.SIG_DFL)


def test_chained_handler_may_raise():
    """What the program's handler raises is the program's, as KeyboardInterrupt is."""
    page = Page()
    signal.signal(USR1, signal.default_int_handler)
    register(USR1, file=page, chain=True)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(USR1)
    unregister(USR1)
    signal.signal(USR1, signal.SIG_DFL)


def test_chain_to_an_ignored_signal_ignores_it():
    """A signal that was ignored brings the dump, and nothing else."""
    page = Page()
    signal.signal(USR1, signal.SIG_IGN)
    register(USR1, file=page, chain=True)
    dump_of(page)
    unregister(USR1)
    signal.signal(USR1, signal.SIG_DFL)


def test_chain_to_a_default_that_does_nothing_can_be_repeated():
    """After the default action, if that is survived, the handler is there for the next signal."""
    page = Page()
    register(signal.SIGWINCH, file=page, chain=True)
    for n in (1, 2):
        signal.raise_signal(signal.SIGWINCH)
        assert page.getvalue().count("sockguard: dump") == n
    assert unregister(signal.SIGWINCH)


def test_whoever_still_chains_to_us_gets_what_we_replaced():
    """A handler that the program set over ours, and that calls ours, works on after `unregister`: it calls through."""
    calls: list[int] = []
    signal.signal(USR1, lambda signum, _: calls.append(signum))
    page = Page()
    register(USR1, file=page)
    ours = signal.getsignal(USR1)
    assert callable(ours)
    signal.signal(USR1, lambda *arguments: ours(*arguments))  # noqa: PLW0108 - not ours itself
    unregister(USR1)
    signal.raise_signal(USR1)
    assert (calls, page.getvalue()) == ([USR1], "")
    signal.signal(USR1, signal.SIG_DFL)
    register(USR1, file=page)
    ours = signal.getsignal(USR1)
    unregister(USR1)
    ours(USR1, None)  # type: ignore[operator, misc]
    assert page.getvalue() == ""


# From anywhere


def test_a_second_signal_does_not_mix_into_the_dump():
    """While one dump is being written, further signals bring no second one; afterwards they do."""
    page, is_reached, is_open = Page(), threading.Event(), threading.Event()

    def slow() -> str:
        is_reached.set()
        assert is_open.wait(10)
        return "end"

    set_source(slow)
    register(USR1, file=page)
    signal.raise_signal(USR1)
    assert is_reached.wait(20)
    for _ in range(3):
        signal.raise_signal(USR1)
    is_open.set()
    assert page.read_all("end\n").count("sockguard: dump") == 1
    assert eventually(lambda: signal.raise_signal(USR1) or page.read_all("end\n").count("sockguard: dump") >= 2)


def test_without_a_thread_the_handler_writes_what_needs_no_lock(monkeypatch):
    """Where no thread can be started, the threads' lines come all the same, from the handler itself."""
    page = Page()
    register(USR1, file=page)
    set_source(lambda: pytest.fail("it could wait for a lock"))

    def refuse(*_: object) -> None:
        raise RuntimeError

    with monkeypatch.context() as patches:
        patches.setattr(_thread, "start_new_thread", refuse)
        signal.raise_signal(USR1)
    assert re.search(r"MainThread \(\d+\)\n    \S*test_dump.py", page.getvalue())


def test_handler_may_be_called_without_a_frame():
    """Called by hand, without a frame, the handler takes its own place."""
    page = Page()
    register(USR1, file=page)
    signal.getsignal(USR1)(USR1, None)  # type: ignore[operator, misc]
    assert "dump.py" in page.read_all()


def outcome(program: str, *, status: int) -> str:
    """What a program writes to its standard error, which ends with a status."""
    environment = {**os.environ, "PYTHONPATH": str(Path(sockguard.__file__).parent.parent)}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)
    assert done.returncode == status, done.stderr
    return done.stderr


BEGIN = """
import os, signal, sys, threading, time
from sockguard._engine import dump
from sockguard._engine.dump import register, set_source
dump.MAX_WAIT = 20.0
def written(signum):
    time.sleep(0.01)  # by now the handler has run
    assert signal.getsignal(signum)._writing.acquire(timeout=20)
"""

LOCKED = """
lock = threading.Lock()
def describe():
    with lock:
        return "described"
set_source(describe)
register(signal.SIGUSR1)
with lock:
    os.kill(os.getpid(), signal.SIGUSR1)
    os.write(1, b"the program goes on\\n")
with threading._active_limbo_lock:
    os.kill(os.getpid(), signal.SIGUSR1)
written(signal.SIGUSR1)
"""


@pytest.mark.slow
def test_locks_of_the_interrupted_thread_are_no_deadlock():
    """A signal that finds the main thread within a lock that the dump needs waits for it, and the program goes on."""
    text = outcome(BEGIN + LOCKED, status=0)
    assert "described" in text


STDERR = """
register(signal.SIGALRM)
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
for n in range(3000):
    print("x" * 500, file=sys.stderr)
signal.setitimer(signal.ITIMER_REAL, 0)
written(signal.SIGALRM)
"""


@pytest.mark.slow
def test_signals_within_a_write_to_the_same_file_are_no_deadlock():
    """A storm of signals while the program writes to the file that the dump goes to hangs and breaks nothing."""
    text = outcome(BEGIN + STDERR, status=0)
    assert text.count("x" * 50) >= 3000
    assert "sockguard: dump" in text
    assert "Traceback" not in text
    assert "reentrant" not in text


DEFAULT = """
register(signal.SIGUSR1, chain=True)
os.kill(os.getpid(), signal.SIGUSR1)
print("not reached", file=sys.stderr)
"""


def test_chain_to_the_default_ends_the_process_after_the_dump():
    """With `chain` and no handler of the program, the dump comes first, then the process dies of the signal."""
    text = outcome(BEGIN + DEFAULT, status=-USR1)
    assert text.endswith(NO_GUARD)


FORKED = """
lock = threading.Lock()
set_source(lambda: (lock.acquire(), "described by %d" % os.getpid())[1])
lock.acquire()
register(signal.SIGUSR2)
os.kill(os.getpid(), signal.SIGUSR2)  # its dump hangs
pid = os.fork()
if not pid:
    lock.release()
    os.kill(os.getpid(), signal.SIGUSR2)
    written(signal.SIGUSR2)
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
print("child", pid, file=sys.stderr)
"""


@pytest.mark.slow
def test_child_dumps_although_a_dump_of_the_parent_hangs():
    """A forked child does not wait for a dump that its parent's thread was writing."""
    text = outcome(BEGIN + FORKED, status=0)
    child = re.search(r"child (\d+)", text)
    assert child
    assert f"described by {child[1]}" in text


VERSIONS = """
import os, signal, sys, threading, time
from sockguard._engine.dump import register, unregister
read, write = os.pipe()
register(signal.SIGUSR1, file=write)
os.kill(os.getpid(), signal.SIGUSR1)
text = ""
while "no connections are known" not in text:
    text += os.read(read, 65536).decode()
print("MainThread" in text, unregister(signal.SIGUSR1), signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL)
"""


@EACH_PYTHON
def test_dump_on_every_version(python):
    """Every version of Python writes it, and puts the handler back."""
    assert run_program(python, VERSIONS) == ["True True True"]
