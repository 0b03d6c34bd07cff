"""One guarded connection as the engine keeps it: a weak reference with a few facts beside it.

It never keeps the application's socket alive. That the socket object has died does not say
that the connection has: `SSLContext.wrap_socket` takes the descriptor over and drops the
original, `detach()` hands it on. So death is only a reason to ask for the cookie.
"""

import sys
import weakref
from collections.abc import Callable, Mapping
from typing import Any, Generic, Self, TypeVar, overload

from sockguard._core.connection import Connection
from sockguard._core.decide import Verdict
from sockguard._core.facts import Names
from sockguard._core.policy import Policy
from sockguard._engine.sites import Site
from sockguard._engine.terms import Terms
from sockguard._kernel.resting import Resting, rest, wake

__all__ = ["LoopRef", "Record", "running_loop", "stranger"]


Value = TypeVar("Value")


class LoopRef:
    """An event loop that owns connections; not kept alive."""

    __slots__ = ("__weakref__", "answered_at", "asked_at", "ref", "stalled_at", "thread_id")

    def __init__(self, loop: Any, thread_id: int) -> None:
        self.ref = weakref.ref(loop)
        self.thread_id = thread_id
        self.asked_at: float | None = None
        """When it was last asked for a sign of life, until it gives one."""
        self.answered_at = 0.0
        self.stalled_at: float | None = None
        """Since when it gives none, if that was reported."""


class _Trouble:
    """What is only to be said of a connection whose peer hung up, or that is ended."""

    __slots__ = ("ended_at", "names", "reported", "verdict")

    def __init__(self) -> None:
        self.ended_at = self.names = self.reported = self.verdict = None


class _OfTrouble(Generic[Value]):
    """An attribute of a record that is kept in its `_Trouble`, which is only made when one of them is set."""

    def __set_name__(self, _: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, record: None, _: type) -> Self: ...
    @overload
    def __get__(self, record: "Record", _: type) -> Value | None: ...
    def __get__(self, record: "Record | None", _: type) -> Self | Value | None:
        if record is None:
            return self
        return None if record.trouble is None else getattr(record.trouble, self._name)

    def __set__(self, record: "Record", value: Value | None) -> None:
        trouble = record.trouble
        if trouble is None and value is not None:
            made = _Trouble()  # before the question: a wrapper's thread may come at the same time, and between the
            if (trouble := record.trouble) is None:  # question and what follows, nothing is called: no thread switches
                record.trouble = trouble = made
        if trouble is not None:
            setattr(trouble, self._name, value)


class Record(weakref.ref[Any]):
    """A connection that the guard watches: what it was when it was adopted, and what happened since."""

    __slots__ = (
        "_history", "cookie", "fd", "is_server", "loop", "opened_at", "site", "terms", "trouble", "untold",
    )  # fmt: skip

    fd: int
    cookie: int | None
    """None until the guard's thread has read it, at the first tick."""
    opened_at: float
    is_server: bool
    loop: LoopRef | None
    site: Site | None
    _history: Resting | None
    terms: Terms | None
    """What the program says of it, if it guards it explicitly."""
    trouble: "_Trouble | None"
    """What the four below are kept in."""
    untold: bool
    """No event has said that it was ended; deleted by `claim`."""
    names = _OfTrouble[Names]()
    """Its addresses, read when its peer hung up: of a connection that is over the kernel forgets them."""
    verdict = _OfTrouble[Verdict]()
    """By which the guard began to end it."""
    ended_at = _OfTrouble[float]()
    reported = _OfTrouble[Mapping[str, object]]()
    """What was told of its leak, and when."""

    # The referent's own hash and equality would be asked for otherwise: they are the application's code.
    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other

    def __init__(  # noqa: PLR0913, PLR0917 - one call for each connection: positional, and no helper between
        self,
        owner: Any,  # noqa: ARG002 - taken by __new__
        callback: Callable[[Any], object] | None,  # noqa: ARG002
        fd: int,
        cookie: int | None,
        opened_at: float,
        is_server: bool,
        loop: LoopRef | None,
        site: Site | None,
        terms: Terms | None = None,
    ) -> None:
        self.fd = fd
        self.cookie = cookie
        self.opened_at = opened_at
        self.is_server = is_server
        self.loop = loop
        self.site = site
        self.terms = terms
        self.untold = True
        self._history = self.trouble = None

    def __new__(cls, owner: Any, callback: Callable[[Any], object] | None, *_: object) -> Self:
        return super().__new__(cls, owner, callback)

    @property
    def connection(self) -> Connection | None:
        """Its history; None until it is first looked at, which for most never happens."""
        history = self._history  # read once: a loop's thread may ask while the guard's puts another
        return None if history is None else wake(history)

    @connection.setter
    def connection(self, connection: Connection | None) -> None:
        self._history = None if connection is None else rest(connection)

    def policy_or(self, policy: Policy) -> Policy:
        """Gives the policy of this connection; the one that is given, unless it has its own."""
        return policy if self.terms is None or self.terms.policy is None else self.terms.policy

    def claim(self) -> bool:
        """Tells whether neither guard nor wrapper has told of its end; from now on, one has: see `Terms.claim`."""
        try:
            del self.untold
        except AttributeError:
            return False
        return self.terms is None or self.terms.claim()

    @property
    def has_object(self) -> bool:
        """Tells whether the program's socket object is known and alive."""
        return not isinstance(self(), _Nobody | None)

    @property
    def is_hung_up(self) -> bool:
        """Tells whether it was seen that the peer has closed its side, or that the connection is over."""
        history = self._history
        return isinstance(history, Connection) and history.is_hung_up  # what is packed is none of these

    @property
    def is_ended_by_guard(self) -> bool:
        """Tells whether the guard has shut the connection down while its owner keeps the descriptor."""
        return self.ended_at is not None


class _Nobody:
    """Stands for the owner of a connection that no Python object is known for."""


_NOBODY = _Nobody()


def stranger(fd: int, cookie: int | None, now: float, *, is_server: bool) -> Record:
    """Makes a record of a connection whose owner is not known."""
    return Record(_NOBODY, None, fd, cookie, now, is_server, None, None)


def running_loop() -> Any:
    """Gives the asyncio event loop that runs in this thread; None if asyncio is not even imported."""
    return _get_running_loop[0]() if _get_running_loop else _first_running_loop()


_get_running_loop: list[Callable[[], Any]] = []


def _first_running_loop() -> Any:
    if (events := sys.modules.get("asyncio.events")) is None:
        return None
    get = getattr(events, "_get_running_loop", None)  # absent while asyncio is being imported
    if get is None:
        return None
    _get_running_loop.append(get)
    return get()
