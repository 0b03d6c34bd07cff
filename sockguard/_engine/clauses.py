"""Which policy holds for a connection, and what follows from it: its own, or that of the process."""

import dataclasses
from typing import NamedTuple

from sockguard._core.decide import first_look_after
from sockguard._core.policy import Policy
from sockguard._engine.record import Record

__all__ = ["Clauses", "ClausesBook"]

MAX_POLICIES = 256
"""Policies of single connections that are remembered; a program that makes one for each must not grow for it."""


class Clauses(NamedTuple):
    """A policy, and what follows from it."""

    policy: Policy
    hurried: Policy
    """The same while descriptors are short."""
    first_look_after: float | None


class ClausesBook:
    """Keeps what follows from each policy.

    Args:
        policy: For all connections that have none of their own.
    """

    def __init__(self, policy: Policy) -> None:
        self.usual = _read(policy)
        self._others: dict[int, Clauses] = {}

    def of(self, record: Record) -> Clauses:
        """Gives the clauses of a connection."""
        policy = record.policy_or(self.usual.policy)
        if policy is self.usual.policy:
            return self.usual
        found = self._others.get(id(policy))  # as long as a policy is in here, its id is its own
        if found is None:
            if len(self._others) >= MAX_POLICIES:
                self._others.clear()
            found = self._others[id(policy)] = _read(policy)
        return found


def _read(policy: Policy) -> Clauses:
    return Clauses(policy, _under_pressure(policy), first_look_after(policy))


def _under_pressure(policy: Policy) -> Policy:
    """The policy while descriptors are short: what has hung up gets no longer than a leak takes to be reported."""
    if policy.shed_dead_on_accept is None or policy.fin_timeout is None or policy.leak_after is None:
        return policy
    return dataclasses.replace(policy, fin_timeout=min(policy.fin_timeout, policy.leak_after))
