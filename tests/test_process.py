"""One guard a process, whoever wants it first: `install()` or a wrapper."""

import logging
import socket
import threading

import pytest

import sockguard
from forks import fork, succeeded, succeeds_in_child
from loopback import connect, state_of
from sockguard import _process
from sockguard._core.policy import Keepalive, Policy
from sockguard._engine.current import current_guard, shared_guard
from sockguard._engine.driver import Driver
from sockguard._engine.terms import Terms
from sockguard._engine.turns import MOST, SOON
from waiting import eventually

ESTABLISHED = 1


@pytest.fixture(autouse=True)
def _leaves_nothing():
    yield
    sockguard.uninstall()
    _process.end()


def test_a_wrapper_makes_the_guard_and_patches_nothing(monkeypatch):
    """With the policy of the environment; all that want it get the same."""
    monkeypatch.setenv("SOCKGUARD_IDLE_TIMEOUT", "77")
    accept = socket.socket.accept
    guard = shared_guard()
    assert guard is shared_guard() is current_guard()
    assert guard.policy == Policy(idle_timeout=77)
    assert socket.socket.accept is accept


@pytest.fixture
def logged(caplog, monkeypatch):
    """Gives the names and messages that the log of the program gets, of all that was told so far."""
    caplog.set_level(logging.DEBUG, "sockguard")
    monkeypatch.setattr(_process, "_told_of", set())
    monkeypatch.setenv("SOCKGUARD_FIN_TIMOUT", "3")

    def logged() -> list[tuple[str, str]]:
        assert _process.running.teller.flush(20.0)
        return [(record.event_name, record.getMessage()) for record in caplog.records]

    return logged


@pytest.mark.parametrize("begin", [sockguard.install, shared_guard, lambda: sockguard.install(Policy())])
def test_a_variable_that_is_no_setting_is_told(logged, begin):
    """Whoever makes the guard, and whether or not it asks the environment; with the name that was probably meant."""
    begin()
    (message,) = [message for name, message in logged() if name == "policy_warning"]
    assert "SOCKGUARD_FIN_TIMOUT=3" in message and "SOCKGUARD_FIN_TIMEOUT" in message


def test_a_variable_is_told_of_once(logged):
    """The environment of a process is set once, by whoever started it; the guard may come and go."""
    sockguard.install()
    logged()
    sockguard.uninstall()
    sockguard.install()
    assert [name for name, _ in logged()].count("policy_warning") == 1


def test_what_the_environment_does_to_the_telling_is_no_matter_of_the_program(logged, monkeypatch):
    """Should it fail, that is told, and the guard is there."""
    monkeypatch.setattr(_process, "warnings_of", lambda *_: 1 / 0)
    sockguard.install()
    eventually(lambda: "guard_failed" in [name for name, _ in logged()])


def test_the_detection_time_is_told_of_each_policy(logged):
    """At level debug: of the guard that a wrapper makes, and of the policy that `install` brings."""
    shared_guard()
    sockguard.install(keepalive=Keepalive(10, 5, 2))
    told = [message for name, message in logged() if name == "policy_in_force"]
    assert ["120.0 s" in told[0], "20.0 s" in told[1], len(told)] == [True, True, 2]


def test_a_guard_that_a_selector_drives_has_no_thread():
    """Until somebody needs one."""
    guard = shared_guard(thread=False)
    assert not guard.driver.is_running
    assert shared_guard(thread=True).driver.is_running
    assert shared_guard(thread=False).driver.is_running


def test_install_takes_the_guard_over_and_gives_it_back():
    """The policy of `install` holds for connections without one of their own, and only until `uninstall`."""
    guard = shared_guard()
    before = guard.policy
    with connect() as c:
        guard.adopt(c.server, c.server, True, terms=Terms(None))
        assert sockguard.install(idle_timeout=0.5) is guard
        eventually(lambda: state_of(c.server) != ESTABLISHED)
    sockguard.uninstall()
    assert (current_guard(), guard.policy, guard.driver.is_running) == (guard, before, True)
    with connect() as c:
        guard.adopt(c.server, c.server, True, terms=Terms(Policy(idle_timeout=0.5)))
        eventually(lambda: state_of(c.server) != ESTABLISHED)


def test_a_guard_that_has_ended_is_installed_no_more():
    """However it ended: one that is made afterwards can be installed with another policy."""
    sockguard.install(idle_timeout=5)
    _process.end()
    sockguard.uninstall()
    guard = shared_guard()
    assert sockguard.install(idle_timeout=7) is guard
    assert guard.policy.idle_timeout == 7


def test_without_a_wrapper_uninstall_ends_it():
    """Then nothing of it is left."""
    guard = sockguard.install()
    sockguard.uninstall()
    assert (current_guard(), guard.driver.is_running) == (None, False)


def test_a_wrapper_that_comes_later_keeps_it():
    """`uninstall` ends what `install` began, and not what a wrapper relies on."""
    guard = sockguard.install(idle_timeout=5)
    assert shared_guard() is guard
    sockguard.uninstall()
    assert (current_guard(), guard.policy) == (guard, Policy())


def test_two_threads_that_come_first_get_the_same():
    """They may open their first connections at once."""
    found, barrier = [], threading.Barrier(4)

    def want():
        barrier.wait(20)
        found.append(shared_guard())

    threads = [threading.Thread(target=want) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len({id(guard) for guard in found}) == 1
    assert len(found) == 4


def test_a_wrong_environment_is_named(monkeypatch):
    """By its variable; nothing is left behind."""
    monkeypatch.setenv("SOCKGUARD_IDLE_TIMEOUT", "soon")
    with pytest.raises(sockguard.PolicyError, match="SOCKGUARD_IDLE_TIMEOUT"):
        shared_guard()
    assert current_guard() is None


@pytest.mark.parametrize("thread", [True, False])
def test_a_forked_child_goes_on_as_its_parent_did(thread):
    """With a thread of its own where that had one, and without where a selector drives it."""
    guard = shared_guard(thread=thread)
    assert succeeds_in_child(lambda: guard.driver.is_running is thread)
    assert guard.driver.is_running is thread


def test_who_drives_is_told_when_to_come_again():
    """When the next tick is due, or soon if one was not done; and never while there is a thread for it."""
    ticks = []
    more = [False, False, True, False]
    driver = Driver(lambda now, most=None: ticks.append((now, most)) or more[len(ticks) - 1], every=0.25)
    assert driver.tick_if_driven(10.0) == 10.25
    assert driver.tick_if_driven(10.2) == 10.25
    assert driver.tick_if_driven(11.0) == 11.25
    assert not driver.is_behind
    assert driver.tick_if_driven(12.0) == 12.0 + SOON
    assert driver.is_behind
    assert driver.tick_if_driven(12.0 + SOON) == 12.25 + SOON
    assert not driver.is_behind
    assert ticks == [(10.0, MOST), (11.0, MOST), (12.0, MOST), (12.0 + SOON, MOST)]
    more += [False] * 1000
    driver.start()
    assert driver.tick_if_driven(20.0) == float("inf")
    driver.stop()
    assert (20.0, MOST) not in ticks


def test_a_signal_handler_may_open_a_connection_while_the_guard_is_made():
    """It runs in the midst of whatever its thread does, and that may be the making of the guard."""
    with _process._beginning:  # noqa: SLF001 - that moment, held still
        assert shared_guard() is current_guard()


def test_a_child_that_was_forked_in_that_moment_can_open_connections():
    """The thread that made the guard is not in the child, and its lock is nobody's there."""
    shared_guard()
    is_held, is_over = threading.Event(), threading.Event()

    def hold():
        with _process._beginning:  # noqa: SLF001
            is_held.set()
            is_over.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    assert is_held.wait(60)
    _process.running.is_shared = False  # so that the child has to take the lock
    child = fork(shared_guard)
    _process.running.is_shared = True
    is_over.set()
    thread.join()
    assert succeeded(child)


def test_a_program_that_gets_no_thread_goes_on(monkeypatch):
    """What opens a connection does not fail for it; it is told."""
    monkeypatch.setattr("sockguard._engine.driver._start_thread", raising_runtime)
    guard = shared_guard()
    assert guard.failed.count == 1
    assert not guard.driver.is_running


def raising_runtime(*_):
    raise RuntimeError("can't start new thread")
