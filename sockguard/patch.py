"""install() and uninstall(): the adapters put under the names that programs use, and taken away again.

For applications, not for libraries: it is process-wide. `uninstall` is the exact inverse;
each name then refers to the very object that it referred to before.
"""

import atexit
import contextlib
import dataclasses
import os

from sockguard._core.policy import Policy, environment_layer, mapping_layer
from sockguard._engine.current import set_current_guard
from sockguard._engine.dump import set_source, unregister_all
from sockguard._engine.guard import Guard
from sockguard._engine.telling import Teller
from sockguard._kernel.after_fork import COUNTS_LATE, caller_soon, is_main_thread
from sockguard._kernel.linux import require_linux
from sockguard.adapters import gevent, stdlib, uvloop
from sockguard.adapters.wrapping import Wrappings
from sockguard.errors import UsageError
from sockguard.outputs.logs import LogOutput

__all__ = ["install", "uninstall"]


class _Installed:
    """The guard of this process, and what was changed for it."""

    def __init__(self, policy: Policy) -> None:
        self.wrappings = Wrappings()
        self.teller = Teller([LogOutput()])
        self.guard = Guard(
            policy,
            self.teller.tell,
            on_exit=uninstall,
            wrap=self.wrappings.wrap,
            recent=lambda: self.teller.recent,
            on_tick=self.teller.tick,
        )

    def put_in_place(self) -> None:
        """Wraps what is imported already, and has the rest wrapped when it is."""
        for adapter in (stdlib, gevent, uvloop):
            for hook in adapter.hooks(self.guard):
                self.wrappings.add(hook)


_installed: _Installed | None = None
_stopped_for_fork: list[_Installed] = []
_has_fork_hooks = _has_late_hook = False


def install(policy: Policy | None = None, **fields: object) -> Guard:
    """Guards every TCP connection that this process accepts or makes from now on.

    It is process-wide and for applications only; a library must not call it. Nothing that
    sends or receives is wrapped: the kernel is asked instead, by a thread of the guard's
    own. Calling it again gives the same guard.

    Args:
        policy: What is wanted; the `SOCKGUARD_*` variables and defaults if not given.
        **fields: Single fields of the policy instead, such as `fin_timeout=30`.

    Returns:
        The guard; as a context manager it uninstalls itself at the end.

    Raises:
        PolicyError: A field makes no sense.
        UsageError: A guard with another policy is installed already.
        KernelUnavailable: This is not Linux.
        RuntimeError: The system gives us no thread.
    """
    global _installed  # noqa: PLW0603 - process-wide is the point
    wanted = _policy_of(policy, fields)
    if _installed is not None:
        _refuse_another(_installed.guard.policy, wanted, is_explicit=policy is not None or bool(fields))
        return _installed.guard
    require_linux("guarding connections by the kernel's books")
    installed = _Installed(wanted)
    installed.put_in_place()
    _installed = installed
    set_current_guard(installed.guard)
    set_source(installed.guard.insight.dump)
    _hook_forks()
    atexit.register(uninstall)  # not only stopped: a fork in a later exit handler would start it again
    try:
        installed.guard.start()
    except BaseException:  # no thread is to be had
        uninstall()
        raise
    return installed.guard


def uninstall() -> None:
    """Undoes `install` exactly. Connections stay as they are. Without a guard it does nothing."""
    global _installed
    installed, _installed = _installed, None
    if installed is None:
        return
    atexit.unregister(uninstall)
    set_current_guard(None)
    set_source(None)
    unregister_all()
    installed.wrappings.undo()
    installed.guard.stop()
    installed.teller.close()


def _policy_of(policy: Policy | None, fields: dict[str, object]) -> Policy:
    if policy is None:
        return Policy.from_layers(environment_layer(os.environ), mapping_layer(fields))
    if not isinstance(policy, Policy):
        msg = f"policy={policy!r} is no sockguard.Policy: give one, or its fields by name as in install(fin_timeout=30)"
        raise UsageError(msg)
    return dataclasses.replace(policy, **fields) if fields else policy  # type: ignore[arg-type] # Policy checks them


def _refuse_another(present: Policy, wanted: Policy, *, is_explicit: bool) -> None:
    if not is_explicit or present == wanted:
        return
    names = [field.name for field in dataclasses.fields(Policy)]
    differing = [n for n in names if getattr(present, n) != getattr(wanted, n)]
    listed = ", ".join(f"{n}={getattr(present, n)!r}, not {getattr(wanted, n)!r}" for n in differing)
    msg = f"sockguard is installed already with another policy ({listed}): call sockguard.uninstall() first"
    raise UsageError(msg)


def _hook_forks() -> None:
    """Registers with os.fork, once: Python knows no way to take that back."""
    global _has_fork_hooks  # noqa: PLW0603
    if not _has_fork_hooks:
        _has_fork_hooks = True
        os.register_at_fork(
            before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child
        )


def _before_fork() -> None:
    if _installed is not None:
        _stopped_for_fork.append(_installed)
        _installed.teller.pause()
        _installed.guard.before_fork()
        if COUNTS_LATE and not _has_late_hook:
            _hook_late()


def _hook_late() -> None:
    """Has the guard go on right after os.fork(), and not in its hook, as the former will count our thread."""
    global _has_late_hook  # noqa: PLW0603
    with contextlib.suppress(ImportError, OSError, AttributeError):  # no ctypes: then there will be a warning
        os.register_at_fork(after_in_parent=caller_soon(_go_on))
        _has_late_hook = True


def _after_fork_in_parent() -> None:
    # A fork by another thread is warned of anyway.
    if not (_has_late_hook and is_main_thread()):
        _go_on()


def _go_on() -> None:
    if _stopped_for_fork:  # both hooks come here
        stopped = _stopped_for_fork.pop()
        if stopped is _installed:
            stopped.guard.after_fork_in_parent()
        stopped.teller.resume()


def _after_fork_in_child() -> None:
    _stopped_for_fork.clear()
    if _installed is not None:
        _installed.teller.after_fork_in_child()
        _installed.guard.after_fork_in_child()
