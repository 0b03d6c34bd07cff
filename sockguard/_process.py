"""The guard of this process: made when it is first wanted, by `install()` or by a wrapper, and kept through forks."""

import atexit
import contextlib
import os

from sockguard._core.policy import Policy
from sockguard._core.policy_events import in_force, warnings_of
from sockguard._engine.current import set_current_guard, set_maker
from sockguard._engine.dump import set_source, unregister_all
from sockguard._engine.foreword import Foreword
from sockguard._engine.guard import Guard
from sockguard._engine.telling import Teller, TellersCounter
from sockguard._kernel.after_fork import COUNTS_LATE, caller_soon, is_main_thread
from sockguard._kernel.natives import monotonic, native
from sockguard.adapters.wrapping import Wrappings
from sockguard.outputs.logs import LogOutput

__all__ = ["Process", "begin", "end", "running", "tell_policy", "turn"]


class Process:
    """The guard of this process, and what it is joined to."""

    def __init__(self, policy: Policy) -> None:
        self.wrappings = Wrappings()
        log = LogOutput()
        self.teller = Teller([log])
        self.foreword = Foreword(log, self.teller.tell)
        self.guard = Guard(
            policy,
            self.teller.tell,
            wrap=self.wrappings.wrap,
            recent=lambda: self.teller.recent,
            on_tick=self._on_tick,
            counter=TellersCounter(self.teller),
        )
        self.is_shared = False
        """A wrapper relies on it."""
        self.is_installed = False
        """By `install`, and `uninstall` has not undone it."""
        self.policy_before: Policy | None = None
        """What the policy was before that, if a wrapper had made the guard."""

    def _on_tick(self, now: float) -> None:
        self.foreword.tick(now)
        self.teller.tick(now)


running: Process | None = None
_told_of: set[object] = set()
"""Variables that are no settings, of which this process was told."""
_now = monotonic
_stopped_for_fork: dict[int, list[Process]] = {}
"""By thread, as several may fork at once, and each has to undo what it has done itself."""
_due_soon: list[Process] = []
"""What goes on when os.fork() is over."""
_this_thread = native("_thread", "get_ident")
_has_fork_hooks = _has_late_hook = False
_beginning = native("_thread", "RLock")()  # a signal handler may come here while its thread is in here


def turn() -> contextlib.AbstractContextManager[object]:
    """Gives the lock that is held while the guard of this process is made or ended: by one thread at a time."""
    lock: contextlib.AbstractContextManager[object] = _beginning
    return lock


def begin(policy: Policy) -> Process:
    """Makes the guard of this process; without patches, and without a thread yet."""
    global running  # noqa: PLW0603 - process-wide is the point
    running = Process(policy)
    set_current_guard(running.guard)
    set_source(running.guard.insight.dump)
    _hook_forks()
    atexit.register(end)  # not only stopped: a fork in a later exit handler would start it again
    tell_policy(running)
    return running


def tell_policy(process: Process) -> None:
    """Tells which policy holds from now on, and of variables that were meant for it; never raises."""
    try:
        odd = [event for event in warnings_of(os.environ, os.getpid()) if event.site not in _told_of]
        _told_of.update(event.site for event in odd)
        for event in [*odd, in_force(process.guard.policy, os.getpid())]:
            process.foreword.add(event, _now())
    except Exception as error:  # noqa: BLE001 - what is told must not keep the program from being guarded
        process.guard.failed("tell_policy", error)


def end() -> None:
    """Ends the guard of this process. Connections stay as they are. Without a guard it does nothing."""
    global running
    with turn():
        ended, running = running, None
    if ended is None:
        return
    atexit.unregister(end)
    set_current_guard(None)
    set_source(None)
    unregister_all()
    ended.wrappings.undo()
    ended.guard.stop()
    ended.foreword.tick(_now())
    ended.teller.close()


def _share(thread: bool) -> Guard:
    process = running
    if process is None or not process.is_shared or (thread and not process.guard.driver.is_running):
        with turn():  # two threads may open their first connections at once
            process = running or begin(Policy.from_environment(os.environ))
            process.is_shared = True
            if thread:
                _start(process.guard)
    return process.guard


def _start(guard: Guard) -> None:
    try:
        guard.start()
    except RuntimeError as error:  # no thread is to be had, or the interpreter ends: what opens a connection goes on
        guard.failed("start", error)


set_maker(_share)


def _hook_forks() -> None:
    """Registers with os.fork, once: Python knows no way to take that back."""
    global _has_fork_hooks  # noqa: PLW0603
    if not _has_fork_hooks and hasattr(os, "register_at_fork"):
        _has_fork_hooks = True
        os.register_at_fork(
            before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child
        )


def _before_fork() -> None:
    if running is not None:
        _stopped_for_fork.setdefault(_this_thread(), []).append(running)
        running.teller.pause()
        running.guard.before_fork()
        if COUNTS_LATE and not _has_late_hook:
            _hook_late()


def _hook_late() -> None:
    """Has the guard go on right after os.fork(), and not in its hook, as the former will count our thread."""
    global _has_late_hook  # noqa: PLW0603
    with contextlib.suppress(ImportError, OSError, AttributeError):  # no ctypes: then there will be a warning
        os.register_at_fork(after_in_parent=caller_soon(_go_on_late))
        _has_late_hook = True


def _after_fork_in_parent() -> None:
    mine = _stopped_for_fork.get(_this_thread())
    if not mine:
        return  # a guard was made meanwhile
    stopped = mine.pop()
    if not mine:
        del _stopped_for_fork[_this_thread()]
    if _has_late_hook and is_main_thread():
        _due_soon.append(stopped)
    else:
        _go_on(stopped)  # a fork by another thread is warned of anyway


def _go_on_late() -> None:
    while _due_soon:  # nothing, where another thread has forked
        _go_on(_due_soon.pop())


def _go_on(stopped: Process) -> None:
    if stopped is running:
        stopped.guard.after_fork_in_parent()
    stopped.teller.resume()


def _after_fork_in_child() -> None:
    global _beginning  # noqa: PLW0603
    _beginning = native("_thread", "RLock")()  # a thread that is not in the child may have held it
    _stopped_for_fork.clear()
    _due_soon.clear()
    if running is not None:
        running.teller.after_fork_in_child()
        running.foreword.after_fork_in_child()
        running.guard.after_fork_in_child()
