"""What two looks, some time apart, tell that one cannot: who moved in between."""

from sockguard._core.facts import LEAK_STATES, Snapshot, SocketFacts
from sockguard._core.inference import made_progress

__all__ = ["keep_still"]


def keep_still(first: Snapshot, second: Snapshot, seconds: float) -> Snapshot:
    """Leaves out of the second snapshot the hung-up and dead connections that are new or moved.

    Those that stay carry the time between the looks, which is the only age they have
    where the kernel tells none.

    Args:
        seconds: The time between the looks, by a clock that does not jump.
    """
    before = {facts.identity: facts for facts in first.sockets if facts.state in LEAK_STATES}
    kept = [
        _marked(facts, seconds) if facts.state in LEAK_STATES else facts
        for facts in second.sockets
        if facts.state not in LEAK_STATES or _stood_still(before.get(facts.identity), facts)
    ]
    return second._replace(sockets=tuple(kept))


def _stood_still(before: SocketFacts | None, after: SocketFacts) -> bool:
    return before is not None and before.cookie == after.cookie and not made_progress(before, after)


def _marked(facts: SocketFacts, seconds: float) -> SocketFacts:
    return facts._replace(still_for=seconds)
