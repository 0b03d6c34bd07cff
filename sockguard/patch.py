"""install() and uninstall(): the adapters put under the names that programs use, and taken away again.

For applications, not for libraries: it is process-wide. `uninstall` is the exact inverse;
each name then refers to the very object that it referred to before.
"""

import dataclasses
import functools
import os

from sockguard import _process
from sockguard._core.policy import Policy, environment_layer, mapping_layer
from sockguard._engine.dump import unregister_all
from sockguard._engine.guard import Guard
from sockguard._kernel.backend import require_books
from sockguard.adapters import gevent, stdlib, trio, uvloop
from sockguard.errors import UsageError

__all__ = ["install", "uninstall"]


def install(policy: Policy | None = None, **fields: object) -> Guard:
    """Guards every TCP connection that this process accepts or makes from now on.

    It is process-wide and for applications only; a library must not call it. Nothing that
    sends or receives is wrapped: the kernel is asked instead, by a thread of the guard's
    own. Calling it again gives the same guard.

    Args:
        policy: What is wanted; the `SOCKGUARD_*` variables and defaults if not given.
        **fields: Single fields of the policy instead, such as `fin_timeout=30`.

    Returns:
        The guard; as a context manager it uninstalls itself at the end, of blocks within each other at that of
        the outermost.

    Raises:
        PolicyError: A field makes no sense.
        UsageError: A guard with another policy is installed already.
        KernelUnavailable: This is not Linux.
        RuntimeError: The system gives us no thread.
    """
    wanted = _policy_of(policy, fields)
    with _process.turn():
        return _install(wanted, is_explicit=policy is not None or bool(fields))


def _install(wanted: Policy, *, is_explicit: bool) -> Guard:
    present = _process.running
    if present is not None and present.is_installed:
        _refuse_another(present.guard.policy, wanted, is_explicit=is_explicit)
        return present.guard
    require_books("guarding connections by the kernel's books")
    process = present or _process.begin(wanted)
    if present is not None:
        present.policy_before = present.guard.policy
        present.guard.change_policy(wanted)
        _process.tell_policy(present)
    _put_in_place(process)
    process.is_installed = True
    try:
        process.guard.start()
    except BaseException:  # no thread is to be had
        uninstall()
        raise
    return process.guard


def _put_in_place(process: _process.Process) -> None:
    """Wraps what is imported already, and has the rest wrapped when it is."""
    process.guard.on_exit = functools.partial(uninstall)  # another one each time: a block ends what it began with
    for adapter in (stdlib, gevent, uvloop, trio):  # trio takes what stdlib has wrapped
        for hook in adapter.hooks(process.guard):
            process.wrappings.add(hook)


def uninstall() -> None:
    """Undoes `install` exactly. Connections stay as they are. Without a guard it does nothing.

    Wrappers of the program's own go on, with the policy that they had before.
    """
    with _process.turn():
        _uninstall()


def _uninstall() -> None:
    process = _process.running
    if process is None or not process.is_installed:
        return
    process.is_installed = False
    process.guard.on_exit = None
    if not process.is_shared:
        _process.end()
        return
    unregister_all()
    process.wrappings.undo()
    process.guard.change_policy(process.policy_before or Policy.from_environment(os.environ))


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
