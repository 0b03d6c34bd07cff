"""What holds for one connection that the program guards explicitly: its policy, and what the program says of it.

Wrapper and record share it, and neither needs the other: the record keeps no object of the
application alive, and the wrapper knows of no descriptor. Each field is written by one side
and read by the other, whole; so there is no lock.
"""

import contextlib
import operator
from typing import TYPE_CHECKING, Any

from sockguard._core.books import Books
from sockguard._core.connection import Demand, Reason
from sockguard._core.heartbeat import Heart
from sockguard._core.policy import Policy
from sockguard._engine.send_gate import SendGate
from sockguard._kernel.backend import keeps_books
from sockguard._kernel.natives import monotonic
from sockguard.errors import UsageError

if TYPE_CHECKING:
    from sockguard._core.decide import Verdict

__all__ = ["CommonTerms", "Demands", "Terms", "check_policy", "make_terms"]


_due_at = operator.attrgetter("due_at")


class Terms:
    """The terms of one connection.

    Args:
        policy: What is wanted of it; None for what the process's guard wants of all.
        books: The wrapper's own stamps, where the kernel keeps none.
        heart: Its heartbeat, if it has one.
    """

    __slots__ = ("books", "demands", "expected", "fd", "gate", "heart", "met", "policy", "untold", "verdict")

    def __init__(self, policy: Policy | None, books: Books | None = None, heart: Heart | None = None) -> None:
        self.policy = policy
        self.books = books
        self.heart = heart
        self.gate = None if heart is None else SendGate()
        """Is held while the program sends, for the heartbeat to keep out."""
        self.expected: str | None = None
        """Why it is to live long; written by the program."""
        self.demands: list[Demand] = []
        """By when it is to be ended, whatever it does; written by the wrapper."""
        self.verdict: Verdict | None = None
        """By which the guard has ended it; written by the guard."""
        self.met: Demand | None = None
        """The demand that was first due when that was found; written by the guard, before."""
        self.fd = -1
        """Where the registry has it; written by the guard."""
        self.untold = True
        """Nobody has told of its end; deleted by who does."""

    @property
    def demand(self) -> Demand | None:
        """The demand that is due first; None if there is none."""
        return min(tuple(self.demands), key=_due_at, default=None) if self.demands else None

    def claim(self) -> bool:
        """Tells whether nobody has told of the end yet; from now on, somebody has.

        Guard and wrapper may ask at once: to delete an attribute is one step, of which one only succeeds.
        """
        try:
            del self.untold
        except AttributeError:
            return False
        return True

    def take_back(self, demand: Demand) -> None:
        """Takes a demand back, and no other one."""
        with contextlib.suppress(ValueError):
            self.demands.remove(demand)


class CommonTerms(Terms):
    """The terms of many connections at once, of which each ends for itself."""

    __slots__ = ()

    def claim(self) -> bool:
        """Leaves it to the records of the guard to know of which end was told."""
        return True


def check_policy(policy: object) -> None:
    """Refuses what is no policy.

    Raises:
        UsageError: It is none, and not None either.
    """
    if policy is not None and not isinstance(policy, Policy):
        msg = f"policy={policy!r} is no sockguard.Policy: give one, as in policy=sockguard.Policy(idle_timeout=30)"
        raise UsageError(msg)


def make_terms(policy: Policy | None, sock: Any, usual: Policy) -> Terms:
    """Makes the terms of a connection that is opened now.

    Args:
        policy: Its own; None for the usual one.
        sock: Its socket, or what an event loop gives in place of one.
        usual: The policy of the process's guard.
    """
    wanted = policy or usual
    books = None if keeps_books(sock) else Books(monotonic())
    if wanted.heartbeat is None or wanted.mode == "observe":
        return Terms(policy, books)
    return Terms(policy, books, Heart(wanted.heartbeat, monotonic()))


class Demands:
    """The connections of which the program demands an end at an instant, if it does not take that back before."""

    def __init__(self) -> None:
        self._terms: set[Terms] = set()

    def add(self, terms: Terms, demand: Demand) -> None:
        """Takes note of a demand; from any thread. Connections with books of their own are looked at anyway."""
        terms.demands.append(demand)
        if terms.books is None:
            self._terms.add(terms)

    def lose(self, terms: Terms, heart: Heart, now: float) -> None:
        """Takes note that a peer gave no sign of life: its connection is to be ended now."""
        limit = heart.heartbeat.timeout or 0.0
        self.add(terms, Demand(Reason.HEARTBEAT, now - max(limit, heart.silence(now)), limit))

    def pop_due(self, now: float) -> list[int]:
        """Lists the descriptors whose demand is due, and forgets those of which all were taken back."""
        due = []
        for terms in tuple(self._terms):
            demand = terms.demand
            if demand is None or terms.verdict is not None:
                self._terms.discard(terms)
                if terms.demands and terms.verdict is None:  # made between the look and this
                    self._terms.add(terms)
            elif demand.due_at <= now and terms.fd >= 0:
                due.append(terms.fd)
        return due
