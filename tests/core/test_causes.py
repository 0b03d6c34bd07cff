"""The table of causes: which rule goes first, and what only the process itself can tell."""

import pytest

from sockguard._core.causes import RULES, TLS_ALERT_SIZES, Case, Cause, Known, Stall, cause_of
from sockguard._core.facts import Address, Holder, Snapshot, SocketFacts
from sockguard._core.inference import Side
from sockguard.errors import InternalError

CLOSE, CLOSE_WAIT, LISTEN = 7, 8, 10
FACTS = SocketFacts(CLOSE_WAIT, Address("127.0.0.1", 80), Address("192.0.2.1", 5), 100, 9, 0, 0, 0, 0, 0, 0, None)
LISTENER = FACTS._replace(state=LISTEN, inode=7)
MINE, CHILD = Holder(5, 3, "parent"), Holder(6, 3, "child")
EMPTY = Snapshot(0.0, (), {}, {}, {})
SERVED_BY_PARENT = EMPTY._replace(holders={7: (MINE,)}, parents={6: 5})
ENDED, STALLED = Known(ended_by_guard=True), Known(stalled=Stall(2.0, ("app.py:3 in handle",)))
KEPT_BY_CHILDREN = {
    "holders": (CHILD, Holder(8, 3, "child")),
    "listeners": [LISTENER],
    "snapshot": SERVED_BY_PARENT,
}


def case(*, side: Side = Side.SERVER, known: Known = ENDED, **fields: object) -> Case:
    held = {name: fields.pop(name) for name in ("holders", "listeners", "snapshot") if name in fields}
    facts = FACTS._replace(**fields)
    return Case(facts, side, **{"holders": (MINE,), "listeners": [], "snapshot": EMPTY, **held}, known=known)


def test_rules_are_in_the_order_of_the_documentation():
    """The order decides which cause is named, so it is part of the interface."""
    order = "not_accepted shared ended_by_guard dead_fd stalled stale_client unread eof_unread eof_ignored".split()
    assert [rule.cause.value for rule in RULES] == [cause.value for cause in Cause] == order


@pytest.mark.parametrize("cause", Cause)
def test_each_cause_has_a_remedy(cause):
    """A cause without advice would be a complaint."""
    assert cause.remedy.endswith(".")


@pytest.mark.parametrize(
    ("described", "cause"),
    [
        (case(inode=0), Cause.NOT_ACCEPTED),
        (case(**KEPT_BY_CHILDREN), Cause.SHARED),
        (case(), Cause.ENDED_BY_GUARD),
        (case(state=CLOSE), Cause.ENDED_BY_GUARD),
        (case(known=Known(), state=CLOSE), Cause.DEAD_FD),
        (case(known=STALLED, state=CLOSE), Cause.DEAD_FD),
        (case(known=STALLED), Cause.STALLED),
        (case(known=STALLED, recv_queue=6), Cause.STALLED),
        (case(known=STALLED._replace(ended_by_guard=True)), Cause.ENDED_BY_GUARD),
        (case(known=STALLED, side=Side.CLIENT), Cause.STALLED),
        (case(known=Known(), side=Side.CLIENT), Cause.STALE_CLIENT),
        (case(known=Known(), side=Side.CLIENT, recv_queue=1 + min(TLS_ALERT_SIZES)), Cause.STALE_CLIENT),
        (case(known=Known(), side=Side.CLIENT, recv_queue=1 + 8), Cause.UNREAD),
        (case(known=Known(), recv_queue=6), Cause.UNREAD),
        (case(known=Known(), recv_queue=1), Cause.EOF_UNREAD),
        (case(known=Known()), Cause.EOF_IGNORED),
    ],
)
def test_first_rule_that_applies_names_the_cause(described, cause):
    """What the guard has ended goes before what the kernel sees, and a stall explains why nobody reads."""
    assert cause_of(described) is cause


@pytest.mark.parametrize("holders", [(MINE,), (MINE, CHILD)])
def test_shared_needs_two_processes_and_the_parent_not_among_them(holders):
    """Where the process that listens holds it too, it can close it itself."""
    held = {**KEPT_BY_CHILDREN, "holders": holders}
    assert cause_of(case(**held, known=Known())) is Cause.EOF_IGNORED


def test_no_rule_is_a_bug_of_ours(monkeypatch):
    """The last rule takes what is left; if it ever did not, the facts are named."""
    monkeypatch.setattr("sockguard._core.causes.RULES", RULES[:1])
    with pytest.raises(InternalError, match="no rule applies"):
        cause_of(case())
