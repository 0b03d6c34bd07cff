"""For tests: a block of code, a function or a whole program must close every socket that it opens.

>>> import sockguard
>>> with sockguard.no_socket_leaks():
...     pass
"""

import functools
import inspect
import warnings
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

from sockguard._core.ignoring import IgnoreRule, parse_rule
from sockguard._core.leftovers import Leftover, story
from sockguard._engine.blame.blocks import Block, turn
from sockguard._engine.blame.tracking import Tracking
from sockguard._kernel.linux import require_linux
from sockguard._kernel.natives import sleep
from sockguard.adapters import births
from sockguard.adapters.pausing import pause
from sockguard.adapters.wrapping import Wrappings
from sockguard.errors import UsageError

__all__ = ["GRACE", "SocketLeakError", "begin_tracking", "end_tracking", "no_socket_leaks", "verify_none"]

GRACE = 0.5
"""Seconds that sockets are given to be closed by threads, loops and peers, once the code under test is through."""
F = TypeVar("F", bound=Callable[..., Any])


class SocketLeakError(AssertionError):
    """Is raised where sockets were left open; `leaks` has a record for each.

    Args:
        owner: Who left them open.
        leaks: What was left open.
    """

    def __init__(self, owner: str, leaks: Iterable[Leftover]) -> None:
        self.owner = owner
        self.leaks = tuple(leaks)
        super().__init__(story(owner, self.leaks))

    def __reduce__(self) -> tuple[type[Self], tuple[str, tuple[Leftover, ...]]]:
        return type(self), (self.owner, self.leaks)


_tracking: Tracking | None = None
_n_users = 0
_wrappings: Wrappings | None = None


def begin_tracking() -> Tracking:
    """Has every socket taken down from now on, until `end_tracking` was called as often.

    Raises:
        KernelUnavailable: This is not Linux.
    """
    global _tracking, _n_users, _wrappings  # noqa: PLW0603 - `socket.socket` is process-wide, too
    require_linux("finding sockets that tests leave open")
    with turn():
        if _tracking is None:
            _tracking, _wrappings = Tracking(), Wrappings()
            for hook in births.hooks(_tracking.ledger.births, _tracking.before_loop_closes):
                _wrappings.add(hook)
            _tracking.ledger.look()
        _n_users += 1
        return _tracking


def end_tracking() -> None:
    """Undoes `begin_tracking`."""
    global _tracking, _n_users, _wrappings  # noqa: PLW0603
    with turn():
        _n_users -= 1
        if _n_users == 0 and _wrappings is not None and _tracking is not None:
            _wrappings.undo()
            _tracking.ledger.shut()
            _tracking = _wrappings = None


class no_socket_leaks:  # noqa: N801 - used as `with no_socket_leaks():`, and known by that name
    """Demands that a block closes every socket that it opens: TCP, UDP and Unix, in Python or in C.

    A context manager, also for `async with`, and a decorator of functions, generator functions
    (below `@pytest.fixture`, too) and coroutine functions. What was open before does not count,
    nor do the sockets by which event loops wake up. A connection whose peer has hung up is told
    with its cause.

    In a coroutine use `async with`, so that the loop can go on closing while we wait. What
    other threads and tasks open meanwhile counts as the block's. Blocks may run at the same
    time, in several threads or tasks: then each is charged with what its own thread or task
    opens and the tasks that it starts, and none with what the threads that it starts open, or
    code in C.

    Args:
        action: "raise" a SocketLeakError, or "warn" by a ResourceWarning.
        grace: Seconds for which to wait for what is about to be closed.
        ignore: Lines as in the ini option `socket_leaks_ignore`: "created-by:module.function",
            "peer:host:port", "port:N".

    Raises:
        SocketLeakError: At the end of the block, if sockets are left open and the block itself did not raise.
        UsageError: An argument makes no sense.
        KernelUnavailable: This is not Linux.
    """

    def __init__(
        self, *, action: Literal["raise", "warn"] = "raise", grace: float = GRACE, ignore: Iterable[str] = ()
    ) -> None:
        if action not in ("raise", "warn"):
            msg = f'action={action!r} makes no sense: give "raise" or "warn"'
            raise UsageError(msg)
        _refuse_nonsense(grace)
        self._action = action
        self._grace = grace
        self._rules = [parse_rule(line) for line in ignore]
        self._blocks: list[Block] = []
        self._n_frames = 3
        """How far up the caller is, from where we warn."""

    def __enter__(self) -> Self:
        return self._begin(has_loop=False)

    def _begin(self, *, has_loop: bool) -> Self:
        self._blocks.append(Block("the block", begin_tracking(), has_loop=has_loop))
        return self

    def _innermost(self) -> Block:
        """Takes out the block that ends: this thread's or task's, where several use this object."""
        block = next((block for block in self._blocks if block.is_of_this_context()), self._blocks[-1])
        self._blocks.remove(block)
        return block

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        block = self._innermost()
        try:
            for seconds in block.waits(self._grace, is_judged=error is None):
                sleep(seconds)
            self._tell(block)
        finally:
            block.end()
            end_tracking()

    async def __aenter__(self) -> Self:
        return self._begin(has_loop=True)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        block = self._innermost()
        try:
            for seconds in block.waits(self._grace, is_judged=error is None):
                await pause(seconds)
            self._tell(block)
        finally:
            block.end()
            end_tracking()

    def __call__(self, function: F) -> F:
        """Has each call of a function be such a block; of a generator function, all from its first step to its last.

        Raises:
            UsageError: It is something else.
        """
        _refuse_others(function)
        return functools.wraps(function)(self._checked(function))  # type: ignore[return-value] # it looks alike

    def _checked(self, function: Callable[..., Any]) -> Callable[..., Any]:
        async def coroutine(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - as the function has them
            async with self._again():
                return await function(*args, **kwargs)

        def generator(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
            with self._again():
                return (yield from function(*args, **kwargs))

        def plain(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
            with self._again():
                return function(*args, **kwargs)

        if inspect.iscoroutinefunction(function):
            return coroutine
        return generator if inspect.isgeneratorfunction(function) else plain

    def _again(self) -> "no_socket_leaks":
        made = no_socket_leaks(action=self._action, grace=self._grace, ignore=map(str, self._rules))
        made._n_frames += 1
        return made

    def _tell(self, block: Block) -> None:
        leaks = [leak for leak in block.leaks() if not any(rule.matches(leak) for rule in self._rules)]
        if not leaks:
            return
        if self._action == "warn":
            warnings.warn(story(block.owner.name, leaks), ResourceWarning, stacklevel=self._n_frames)
        else:
            raise SocketLeakError(block.owner.name, leaks)


def _refuse_others(function: object) -> None:
    """Refuses what a wrapper would change into something else: nobody would notice that nothing is judged."""
    remedy = ""
    if isinstance(function, type):
        remedy = "a class: decorate its methods, or use a fixture with `with no_socket_leaks(): yield`"
    elif inspect.isasyncgenfunction(function):
        remedy = "an async generator function: write `async with no_socket_leaks():` within it"
    elif not callable(function) or isinstance(function, staticmethod):
        remedy = "no function: write it below @staticmethod, @classmethod or @property"
    if remedy:
        msg = f"no_socket_leaks() cannot decorate {getattr(function, '__name__', function)!r}, as it is {remedy}"
        raise UsageError(msg)


def _refuse_nonsense(grace: float) -> None:
    try:
        makes_sense = 0 <= grace < float("inf")
    except TypeError:
        makes_sense = False
    if not makes_sense:
        msg = f"grace={grace!r} makes no sense: give seconds, 0 or more"
        raise UsageError(msg)


def verify_none(*, grace: float = GRACE, ignore: Iterable[str] = (), baseline: Iterable[int] = ()) -> None:
    """Demands that this process has no open socket at all: for the end of a program, after the manner of goleak.

    Args:
        grace: Seconds for which to wait for what is about to be closed.
        ignore: Lines as for `no_socket_leaks`.
        baseline: Inodes of sockets that may be open.

    Raises:
        SocketLeakError: Sockets are open.
        UsageError: An argument makes no sense.
        KernelUnavailable: This is not Linux.
    """
    _refuse_nonsense(grace)
    rules: list[IgnoreRule] = [parse_rule(line) for line in ignore]
    tracking = begin_tracking()
    try:
        leaks = tracking.everything(grace, set(baseline))
    finally:
        end_tracking()
    leaks = [leak for leak in leaks if not any(rule.matches(leak) for rule in rules)]
    if leaks:
        raise SocketLeakError("this process", leaks)
