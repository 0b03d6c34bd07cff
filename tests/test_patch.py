"""`install()` and `uninstall()`: what they change in a process, and that nothing of it is left behind."""

import _thread
import atexit
import contextlib
import importlib
import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from unittest import mock

import pytest
from wrapt import importer

import sockguard
from interpreters import PATIENT, run_program
from loopback import connect, listen
from sockguard import _process, patch
from sockguard._core.policy import Policy
from sockguard._engine import driver
from sockguard._engine.current import current_guard, shared_guard
from waiting import eventually

WRAPPED = ("accept", "connect", "connect_ex")


@pytest.fixture(autouse=True)
def _bare() -> Iterator[None]:
    """Begins and ends each test without a guard."""
    sockguard.uninstall()
    yield
    sockguard.uninstall()


def names_of(kind: type) -> Mapping[str, int]:
    """Tells which object each name in a class refers to."""
    return {name: id(value) for name, value in vars(kind).items()}


def own_fds() -> set[str]:
    """Lists the open descriptors, but for the one that lists them."""
    fds = os.listdir("/proc/self/fd")
    return {fd for fd in fds if os.path.exists(f"/proc/self/fd/{fd}")}


def n_threads() -> tuple[int, int]:
    """Counts as Python does, without the main thread, and as the kernel does, and with it os.fork()."""
    return _thread._count(), len(os.listdir("/proc/self/task"))  # noqa: SLF001 - what CPython's own tests look at


def waiting() -> dict[str, list[object]]:
    """Tells which modules wrapt waits for, and for whom."""
    return {name: list(hooks) for name, hooks in importer._post_import_hooks.items()}  # noqa: SLF001


# --- Exactly as before ---


@pytest.mark.parametrize("kind", [socket.socket, socket.socket.__base__, ssl.SSLSocket])
def test_uninstall_leaves_the_very_same_objects(kind):
    """Each name of the class refers to what it did before, also one that was inherited: it is no own one now."""
    before = names_of(kind)
    sockguard.install()
    sockguard.uninstall()
    assert names_of(kind) == before


def test_only_what_opens_connections_is_wrapped():
    """Nothing that sends, receives or closes is in anybody's way."""
    before = names_of(socket.socket)
    sockguard.install()
    changed = {name for name, value in names_of(socket.socket).items() if before.get(name) != value}
    assert changed == set(WRAPPED)


def test_the_import_system_is_as_before():
    """The finder that waits for gevent and uvloop goes again, and what it waits for."""
    finders, hooks = list(sys.meta_path), waiting()
    sockguard.install()
    sockguard.uninstall()
    assert list(map(id, sys.meta_path)) == list(map(id, finders))
    assert waiting() == hooks


def test_a_guard_after_a_guard_wraps_once():
    """Installed a second time, a call goes through one wrapper, and uninstalling takes it away."""
    before = names_of(socket.socket)
    for _ in range(3):
        sockguard.install()
        assert not hasattr(vars(socket.socket)["accept"].__wrapped__, "__wrapped__")
        sockguard.uninstall()
    assert names_of(socket.socket) == before


@pytest.fixture
def _own_class() -> Iterator[None]:
    """Leaves the class as it was, whatever is put in there for good."""
    before = {name: vars(socket.socket).get(name) for name in WRAPPED}
    yield
    sockguard.uninstall()
    for name, value in before.items():
        if value is not None:
            setattr(socket.socket, name, value)
        elif name in vars(socket.socket):
            delattr(socket.socket, name)


@pytest.mark.usefixtures("_own_class")
@pytest.mark.parametrize("name", WRAPPED)
def test_what_is_put_on_top_of_ours_stays(name):
    """A mock, or a wrapper of another library: uninstall() takes away what is ours, and only that."""
    sockguard.install()
    with mock.patch.object(socket.socket, name) as on_top:
        sockguard.uninstall()
        assert vars(socket.socket)[name] is on_top


@pytest.mark.usefixtures("_own_class")
@pytest.mark.parametrize("name", WRAPPED)
def test_what_somebody_has_deleted_stays_so(name):
    """It is no error."""
    sockguard.install()
    delattr(socket.socket, name)
    sockguard.uninstall()
    assert name not in vars(socket.socket)


@pytest.mark.usefixtures("_own_class")
def test_what_is_ours_and_put_back_later_does_nothing():
    """A mock that ends after uninstall() restores what it has found. That goes on calling the original."""
    guard = sockguard.install()
    with mock.patch.object(socket.socket, "accept"), mock.patch.object(socket.socket, "connect"):
        sockguard.uninstall()
    n_fds = len(own_fds())
    with connect() as c:
        c.client.sendall(b"x")
        assert c.server.recv(1) == b"x"
    assert (len(own_fds()), len(guard.registry.opened), guard.failed.count) == (n_fds, 0, 0)
    with sockguard.install() as guard, connect() as c:
        eventually(lambda: c.client.fileno() in guard.registry.by_fd)


LIBRARY = """
class Base:
    def create_server(self, factory):
        return factory()

class Loop(Base):
    def create_connection(self, factory):
        return factory()
"""


@pytest.fixture
def library(tmp_path, monkeypatch):
    """A library of the name `uvloop`, not yet imported."""
    with contextlib.suppress(ImportError):
        importlib.import_module("uvloop")  # if that is here, our own plugin does not wait for it any more
    (tmp_path / "uvloop.py").write_text(LIBRARY)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "uvloop", raising=False)
    yield "uvloop"
    sys.modules.pop("uvloop", None)


def test_a_module_that_is_imported_later_is_wrapped_and_restored(library):
    """It takes no notice of the order, and puts back own and inherited names alike."""
    sockguard.install()
    module = __import__(library)
    own = vars(module.Loop)
    assert all(hasattr(own[name], "__wrapped__") for name in ("create_server", "create_connection"))
    original = own["create_connection"].__wrapped__
    sockguard.uninstall()
    assert "create_server" not in own
    assert own["create_connection"] is original


def test_a_program_that_waits_for_the_same_module_is_told(library):
    """Its own import hook is called, guard or no guard."""
    seen: list[object] = []
    importer.register_post_import_hook(seen.append, library)
    sockguard.install()
    sockguard.uninstall()
    assert waiting()[library] == [seen.append]
    assert [__import__(library)] == seen


def test_a_module_that_is_imported_after_the_end_is_let_be(library):
    """What was waited for is not waited for any more."""
    sockguard.install()
    sockguard.uninstall()
    module = __import__(library)
    assert "create_server" not in vars(module.Loop)
    assert not hasattr(module.Loop.create_connection, "__wrapped__")


def test_another_version_of_a_library_is_no_matter(tmp_path, monkeypatch):
    """A module that lacks what is wrapped there is imported as it is."""
    (tmp_path / "uvloop.py").write_text("class Loop: pass")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "uvloop", raising=False)
    sockguard.install()
    try:
        module = __import__("uvloop")
        assert [name for name in vars(module.Loop) if name.startswith("create")] == []
    finally:
        sys.modules.pop("uvloop", None)


def test_descriptors_and_threads_are_given_back():
    """After uninstall() the process has as many as before, at once."""
    sockguard.install()
    sockguard.uninstall()  # whatever is imported and made once, is there by now
    before = own_fds(), n_threads()
    sockguard.install()
    sockguard.uninstall()
    assert (own_fds(), n_threads()) == before


def test_a_process_without_a_connection_has_no_descriptor_of_ours():
    """They are taken with the first connection: some programs care which numbers they have."""
    program = """
import os, socket, sockguard, time
fds = lambda: sorted(os.listdir("/proc/self/fd"))
sockguard.install()
time.sleep(0.3)  # past the first tick
print(min(len(fds()) for _ in range(100) if not time.sleep(0.01)))  # one that a tick opens is closed by it
with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()):
    print(len(fds()) > 6)
"""
    assert run_program(sys.executable, program) == ["4", "True"]  # standard streams, and the folder that is listed


def test_an_install_that_fails_leaves_nothing_behind(monkeypatch):
    """If the system gives us no thread, the error says so, and the process is as it was."""

    def refuse(*_):
        raise RuntimeError("can't start new thread")

    before = names_of(socket.socket)
    monkeypatch.setattr(driver, "_start_thread", refuse)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        sockguard.install()
    assert names_of(socket.socket) == before
    assert current_guard() is None


def test_a_wrong_policy_leaves_nothing_behind():
    """It is refused before anything is changed."""
    before = names_of(socket.socket)
    with pytest.raises(sockguard.PolicyError):
        sockguard.install(fin_timeout=-1)
    assert names_of(socket.socket) == before
    assert current_guard() is None


# --- Once and for all ---


def test_a_second_install_gives_the_same_guard():
    """It may be called by several parts of a program that agree, or have no wish of their own."""
    guard = sockguard.install(fin_timeout=30)
    assert sockguard.install() is guard
    assert sockguard.install(fin_timeout=30) is guard
    assert sockguard.install(sockguard.Policy(fin_timeout=30)) is guard


def test_a_second_install_that_wants_something_else_is_refused():
    """The error names each field, with both values, and what to do; the guard stays."""
    guard = sockguard.install(fin_timeout=30)
    with pytest.raises(sockguard.UsageError) as refusal:
        sockguard.install(fin_timeout=5, mode="observe")
    for part in ("fin_timeout=30.0, not 5.0", "mode='enforce', not 'observe'", "sockguard.uninstall()"):
        assert part in str(refusal.value)
    assert sockguard.install() is guard


def test_after_uninstall_another_policy_is_welcome():
    """The advice that the error gives works."""
    sockguard.install(fin_timeout=30)
    sockguard.uninstall()
    assert sockguard.install(fin_timeout=5).policy.fin_timeout == 5


def test_what_is_no_policy_is_refused():
    """The likeliest mistake is a mapping: the error shows how to give fields."""
    with pytest.raises(sockguard.UsageError, match="fields by name"):
        sockguard.install({"fin_timeout": 30})


def test_fields_change_a_policy_that_is_given():
    """A preset and one wish of one's own can be given together."""
    assert sockguard.install(sockguard.Policy(leak_after=3), fin_timeout=7).policy == sockguard.Policy(
        leak_after=3, fin_timeout=7
    )


def test_the_policy_comes_from_the_environment(monkeypatch):
    """SOCKGUARD_* variables are heeded where nothing else is said, and an argument wins."""
    monkeypatch.setenv("SOCKGUARD_FIN_TIMEOUT", "7")
    monkeypatch.setenv("SOCKGUARD_MODE", "observe")
    guard = sockguard.install(mode="enforce")
    assert (guard.policy.fin_timeout, guard.policy.mode) == (7, "enforce")


def test_it_is_a_context_manager():
    """At the end of the block, also by an error, the guard is gone."""
    before = names_of(socket.socket)

    def fail() -> None:
        with sockguard.install() as guard:
            assert current_guard() is guard
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert current_guard() is None
    assert names_of(socket.socket) == before


def test_the_outermost_block_uninstalls():
    """A test or a function that guards itself does not take the guard away from whoever calls it."""
    with sockguard.install(fin_timeout=30) as guard:
        with sockguard.install() as same:
            assert same is guard
        assert current_guard() is guard
        assert guard.driver.is_running
        with pytest.raises(KeyError), sockguard.install():
            raise KeyError
        assert current_guard() is guard
    assert current_guard() is None


def test_uninstall_in_a_block_uninstalls_at_once():
    """And the end of the block leaves a guard alone that was installed after it, be it the same one again."""
    with sockguard.install(), sockguard.install():
        sockguard.uninstall()
        assert current_guard() is None
        guard = sockguard.install()
    assert current_guard() is guard
    with sockguard.install():
        pass
    assert current_guard() is None


def test_uninstall_in_a_block_is_heeded_where_a_wrapper_keeps_the_guard():
    """Then it is the same guard that is installed again."""
    guard = shared_guard()
    try:
        with sockguard.install():
            sockguard.uninstall()
            assert sockguard.install(fin_timeout=7) is guard
        assert guard.policy.fin_timeout == 7
        with sockguard.install():
            pass
        assert guard.policy == Policy()
    finally:
        _process.end()


def test_uninstall_without_a_guard_does_nothing():
    """It may be called twice, or by a program that never installed one."""
    before = names_of(socket.socket)
    sockguard.uninstall()
    sockguard.uninstall()
    assert names_of(socket.socket) == before


def test_a_guard_outlives_the_thread_that_installed_it():
    """It is of the process: another thread finds it, uses it and uninstalls it."""
    guards: list[sockguard.Guard] = []
    thread = threading.Thread(target=lambda: guards.append(sockguard.install()))
    thread.start()
    thread.join()
    assert sockguard.install() is guards[0]
    with listen() as listener, socket.create_connection(listener.getsockname()) as client:
        eventually(lambda: client.fileno() in guards[0].registry.by_fd)


def at_once(function, n=4):
    """Calls a function in several threads at once, and gives what it gave."""
    given, barrier = [], threading.Barrier(n)

    def call():
        barrier.wait(60)
        given.append(function())

    threads = [threading.Thread(target=call) for _ in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return given


def test_threads_that_install_at_once_get_the_same_guard():
    """And what they wrap is wrapped once; threads that uninstall at once undo it once."""
    before, threads_before = names_of(socket.socket), n_threads()
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(20):
            guards = at_once(sockguard.install)
            assert [id(guard) for guard in guards] == [id(current_guard())] * 4
            assert not hasattr(vars(socket.socket)["accept"].__wrapped__, "__wrapped__")
            at_once(sockguard.uninstall)
            assert names_of(socket.socket) == before
    finally:
        sys.setswitchinterval(interval)
    eventually(lambda: n_threads() == threads_before)  # join() returns before the system has ended a thread


# --- Threads ---


def test_threading_does_not_know_our_thread():
    """Tests and servers count threads: what `threading` lists stays the same, and Python's own count is one more."""
    listed, (n_known, n_there) = threading.enumerate(), n_threads()
    sockguard.install()
    assert not {*threading.enumerate()} - {*listed}
    assert n_threads() == (n_known + 1, n_there + 1)


def test_threads_are_as_many_after_a_fork():
    """Whoever counts right after a fork finds what was there before, in the parent and in the child."""
    program = """
import _thread, os, sockguard, sys
sockguard.install()
counts = lambda: (_thread._count(), len(os.listdir("/proc/self/task")))
before = counts()
for _ in range(50):
    pid = os.fork()
    if not pid:
        os._exit(counts() != before)
    assert counts() == before, counts()
    assert os.waitpid(pid, 0)[1] == 0
print(before)
"""
    assert run_program(sys.executable, PATIENT + program) == ["(1, 2)"]


def test_a_signal_that_the_program_blocks_waits_for_the_program():
    """The guard's thread takes none: by default, SIGUSR1 would have killed the process there."""
    program = """
import os, signal, sockguard
sockguard.install()
wanted = {signal.SIGUSR1, signal.SIGTERM, signal.SIGALRM}
signal.pthread_sigmask(signal.SIG_BLOCK, wanted)
for number in wanted:
    os.kill(os.getpid(), number)
    assert signal.sigwait(wanted) == number
print("alive")
"""
    assert run_program(sys.executable, program) == ["alive"]


def test_a_finalizer_that_runs_on_our_thread_leaves_no_trace():
    """The garbage collector may run there, and what it collects may log, which has `threading` list a dummy."""
    listed, seen = threading.enumerate(), []
    ours = driver.Driver(lambda _: seen.append(threading.current_thread()), every=0.001)
    ours.start()
    eventually(lambda: len(seen) > 1)
    ours.stop()
    assert seen[0] not in threading.enumerate()
    assert not {*threading.enumerate()} - {*listed}


# --- Forks ---

FORKS = """
import os, pty, sockguard, subprocess, sys, warnings
sockguard.install()
for fork in (os.fork, os.forkpty, pty.fork, os.fork):
    got = fork()
    pid, terminal = got if isinstance(got, tuple) else (got, None)
    if not pid:
        if os.fork() == 0:
            os._exit(len(os.listdir("/proc/self/task")) != 2)
        os._exit(os.wait()[1] != 0)
    assert os.waitpid(pid, 0)[1] == 0
    if terminal is not None:
        os.close(terminal)
subprocess.run(["true"], preexec_fn=os.setsid, check=True)
print("done")
"""


def test_a_fork_is_not_warned_of():
    """Python 3.12 and newer warn of threads at a fork; ours is none of them, in the child and its child neither."""
    assert run_program(sys.executable, PATIENT + FORKS) == ["done"]


def test_a_thread_of_the_programs_own_is_still_warned_of():
    """The warning is Python's, and right: we do not take it away."""
    program = """
import os, sockguard, threading, warnings
sockguard.install()
done = threading.Event()
threading.Thread(target=done.wait).start()
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    if os.fork() == 0:
        os._exit(0)
done.set()
print(len(caught))
"""
    assert run_program(sys.executable, PATIENT + program) == ["1" if sys.version_info >= (3, 12) else "0"]


def test_a_fork_by_a_thread_leaves_the_guard_at_work():
    """Whoever forks, the parent and the child go on with a guard each."""
    program = """
import os, sockguard, threading, warnings
warnings.simplefilter("ignore")
sockguard.install()
n_threads = lambda: len(os.listdir("/proc/self/task"))
def fork():
    pid = os.fork()
    if not pid:
        os._exit(n_threads() != 2)
    print(os.waitpid(pid, 0)[1], n_threads())
thread = threading.Thread(target=fork)
thread.start()
thread.join()
"""
    assert run_program(sys.executable, PATIENT + program) == ["0 3"]


def test_threads_that_fork_at_once_leave_the_guard_at_work():
    """However their forks overlap: it goes on in the parent, and in each child."""
    program = """
import os, sockguard, threading, warnings
warnings.simplefilter("ignore")
guard = sockguard.install()
statuses = []
barrier = threading.Barrier(3)
def fork():
    for _ in range(20):
        barrier.wait()
        pid = os.fork()
        if not pid:
            os._exit(not guard.driver.is_running)
        statuses.append(os.waitpid(pid, 0)[1])
threads = [threading.Thread(target=fork) for _ in range(2)]
for thread in threads:
    thread.start()
fork()
for thread in threads:
    thread.join()
print(statuses.count(0), guard.driver.is_running)
"""
    assert run_program(sys.executable, PATIENT + program) == ["60 True"]


def test_a_forked_child_can_uninstall():
    """In the child it is as exact, and the parent's guard does not notice."""
    program = """
import os, socket, sockguard
names = lambda: {name: id(value) for name, value in vars(socket.socket).items()}
before = names()
guard = sockguard.install()
pid = os.fork()
if not pid:
    sockguard.uninstall()
    os._exit(names() != before or len(os.listdir("/proc/self/task")) != 1)
print(os.waitpid(pid, 0)[1], sockguard.install() is guard, names() == before)
"""
    assert run_program(sys.executable, program) == ["0 True False"]


def test_a_fork_without_a_guard_is_let_be():
    """The hooks of os.fork() stay registered after uninstall(), and do nothing."""
    program = """
import os, sockguard
sockguard.install()
sockguard.uninstall()
pid = os.fork()
if not pid:
    os._exit(len(os.listdir("/proc/self/task")) != 1)
print(os.waitpid(pid, 0)[1], len(os.listdir("/proc/self/task")))
"""
    assert run_program(sys.executable, program) == ["0 1"]


# --- The end ---


def test_the_guard_goes_before_the_interpreter():
    """A handler that was registered earlier, so that it runs later, finds the process as it was; a fork there, too."""
    program = """
import atexit, os, socket, sockguard
names = lambda: {name: id(value) for name, value in vars(socket.socket).items()}
before = names()
def last():
    try:
        os.spawnv(os.P_WAIT, "/bin/true", ["true"])
    except RuntimeError:
        pass  # Python 3.12 has begun to refuse a fork at this point
    print(names() == before, len(os.listdir("/proc/self/task")))
atexit.register(last)
sockguard.install()
"""
    assert run_program(sys.executable, program) == ["True 1"]


def test_no_exit_handler_is_left_behind(monkeypatch):
    """uninstall() takes back what install() told atexit."""
    handlers: list[object] = []
    monkeypatch.setattr(atexit, "register", handlers.append)
    monkeypatch.setattr(atexit, "unregister", handlers.remove)
    sockguard.install()
    assert handlers
    sockguard.uninstall()
    assert handlers == []


def test_an_exit_by_an_error_is_not_delayed():
    """The traceback and the status are Python's own."""
    program = "import sockguard; sockguard.install(); raise SystemExit('over')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "over\n")


def test_it_is_refused_where_the_kernel_has_no_books(monkeypatch):
    """Elsewhere than on Linux the error says what is needed, and nothing is changed."""

    def refuse(_):
        raise sockguard.KernelUnavailable("guarding", "this is not Linux", "Use Linux.")

    before = names_of(socket.socket)
    monkeypatch.setattr(patch, "require_books", refuse)
    with pytest.raises(sockguard.KernelUnavailable):
        sockguard.install()
    assert names_of(socket.socket) == before
