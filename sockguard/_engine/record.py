"""One guarded connection as the engine keeps it: a weak reference with a few facts beside it.

It never keeps the application's socket alive. That the socket object has died does not say
that the connection has: `SSLContext.wrap_socket` takes the descriptor over and drops the
original, `detach()` hands it on. So death is only a reason to ask for the cookie.
"""

import sys
import weakref
from collections.abc import Callable, Mapping
from typing import Any, Self

from sockguard._core.connection import Connection
from sockguard._core.decide import Verdict
from sockguard._core.facts import Names
from sockguard._core.policy import Policy
from sockguard._engine.sites import Site
from sockguard._engine.terms import Terms

__all__ = ["LoopRef", "Record", "running_loop", "stranger"]


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


class Record(weakref.ref[Any]):
    """A connection that the guard watches: what it was when it was adopted, and what happened since."""

    __slots__ = (
        "connection", "cookie", "ended_at", "fd", "is_server", "is_told", "loop", "names", "opened_at", "reported",
        "site", "terms", "verdict",
    )  # fmt: skip

    fd: int
    cookie: int | None
    """None until the guard's thread has read it, at the first tick."""
    opened_at: float
    is_server: bool
    loop: LoopRef | None
    site: Site | None
    connection: Connection | None
    """Its history; None until it is first looked at, which for most never happens."""
    terms: Terms | None
    """What the program says of it, if it guards it explicitly."""
    names: Names | None
    """Its addresses, read when its peer hung up: of a connection that is over the kernel forgets them."""
    verdict: Verdict | None
    """By which the guard began to end it."""
    ended_at: float | None
    is_told: bool
    """An event has said that the guard ends it."""
    reported: Mapping[str, object] | None
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
        self.is_told = False
        self.connection = self.verdict = self.names = self.ended_at = self.reported = None

    def __new__(cls, owner: Any, callback: Callable[[Any], object] | None, *_: object) -> Self:
        return super().__new__(cls, owner, callback)

    def policy_or(self, policy: Policy) -> Policy:
        """Gives the policy of this connection; the one that is given, unless it has its own."""
        return policy if self.terms is None or self.terms.policy is None else self.terms.policy

    @property
    def has_object(self) -> bool:
        """Tells whether the program's socket object is known and alive."""
        return not isinstance(self(), _Nobody | None)

    @property
    def is_hung_up(self) -> bool:
        """Tells whether it was seen that the peer has closed its side, or that the connection is over."""
        return self.connection is not None and self.connection.is_hung_up

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
    events = sys.modules.get("asyncio.events")
    get = getattr(events, "_get_running_loop", None)  # absent while asyncio is being imported
    if get is None:
        return None
    _get_running_loop.append(get)
    return get()
