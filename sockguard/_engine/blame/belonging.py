"""Is this socket really the test's own? Whose it is, if it was opened in a test's time but for somebody else.

A client of session scope opens its connections when they are needed, in the time of some
test; a server of module scope accepts in the time of any. Blaming that test would be wrong.
So before it is blamed it is asked: is there a fixture of a wider scope, still alive, from whose
value the socket can be reached, whose listener it came through, or whose thread opened it?
Then it is that fixture's affair, at its own teardown.
"""

import gc
from collections.abc import Iterator
from typing import Any

from sockguard._engine.blame.births import Birth, Moment
from sockguard._engine.blame.ledger import Ledger, Owner, Suspect
from sockguard._engine.blame.loops import without_closing
from sockguard._engine.blame.reach import leads_everywhere, reached_from
from sockguard._kernel.own_sockets import sketch_descriptor

__all__ = ["claim", "give_to_owners", "left_by_clients"]


def give_to_owners(suspects: list[Suspect], ledger: Ledger) -> list[Suspect]:
    """Gives the sockets that belong to others to them, and returns the rest."""
    if not suspects:
        return []
    listeners = dict(_listeners(ledger))
    served = [suspect for suspect in suspects if _listener_of(suspect, listeners)]
    abandoned = [suspect for suspect in served if suspect.sketch.is_sick]
    for suspect in served:
        if suspect not in abandoned:
            suspect.birth.moment = Moment(_listener_of(suspect, listeners))
            ledger.births.elsewhere[suspect.birth.inode] = suspect.birth
    # Of what somebody else's thread opened, the test is charged with no more than what its client has abandoned.
    rest = [
        s for s in suspects if s not in served and (s.birth.moment.owner is s.owner or s.birth.moment.owner.is_over)
    ]
    return without_closing(abandoned + _without_hidden(_without_reached(rest, ledger), ledger))


def claim(owner: Owner, ledger: Ledger) -> None:
    """Gives an owner, before it is torn down, what its value leads to; afterwards nothing leads there any more."""
    births = [ledger.births.by_inode[inode] for inode in ledger.look()]
    for birth in reached_from(owner.roots, [birth for birth in births if _is_of_a_test(birth, ledger)]):
        birth.moment = Moment(owner)


def _is_of_a_test(birth: Birth, ledger: Ledger) -> bool:
    owner = birth.moment.owner
    return not (owner is ledger.baseline or owner in ledger.owners or birth.is_internal or birth.is_told)


def left_by_clients(suspects: list[Suspect], ledger: Ledger) -> list[Suspect]:
    """Keeps of these those that came through the listener of somebody else than is charged."""
    listeners = dict(_listeners(ledger)) if suspects else {}
    owners = [_listener_of(suspect, listeners) for suspect in suspects]
    found = [s for s, owner in zip(suspects, owners, strict=True) if owner is not None and owner is not s.owner]
    return without_closing(found)


def _is_alive(owner: Owner, ledger: Ledger) -> bool:
    return owner is ledger.baseline or not owner.is_over


def _listeners(ledger: Ledger) -> Iterator[tuple[tuple[str, str], Owner]]:
    """Lists the listeners that belong to somebody who is alive: protocol and address -> owner."""
    for inode, fds in ledger.look().items():
        birth = ledger.births.by_inode[inode]
        if _is_alive(birth.moment.owner, ledger):
            sketch = sketch_descriptor(fds[0], inode)
            if sketch and sketch.state == "LISTEN":
                yield (sketch.protocol, sketch.local), birth.moment.owner


def _listener_of(suspect: Suspect, listeners: dict[tuple[str, str], Owner]) -> Owner | None:
    protocol, local = suspect.sketch.protocol, suspect.sketch.local
    if not local or suspect.sketch.state == "LISTEN":
        return None
    port = local.rpartition(":")[2]
    wildcards = (f"0.0.0.0:{port}", f"[::]:{port}") if protocol == "TCP" else ()
    return next((owner for name in (local, *wildcards) if (owner := listeners.get((protocol, name)))), None)


def _without_reached(suspects: list[Suspect], ledger: Ledger) -> list[Suspect]:
    """Gives sockets to the fixture from whose value they can be reached."""
    births = {suspect.birth.inode: suspect.birth for suspect in suspects if suspect.child is None}
    reached: set[int] = set()
    for owner in ledger.owners:
        for birth in reached_from(owner.roots, [births[inode] for inode in births.keys() - reached]):
            reached.add(birth.inode)
            birth.moment = Moment(owner)
    return [suspect for suspect in suspects if suspect.birth.inode not in reached]


class _Lives:
    """Owners in whose values somebody in C may have a socket: as long as they live, nobody can tell whose it is."""

    def __init__(self, owners: list[Owner]) -> None:
        self._owners = owners

    def is_over(self) -> bool:
        """Tells whether all of them have ended. Whatever is open then, they did not close."""
        return all(owner.is_over for owner in self._owners)


def _without_hidden(suspects: list[Suspect], ledger: Ledger) -> list[Suspect]:
    """Leaves what was opened in C to those who may have it, until they have ended."""
    owners = [owner for owner in ledger.owners if any(map(_may_hide, owner.roots))]
    rest = []
    for suspect in suspects:
        birth = suspect.birth
        is_seen = bool(birth.calls or birth.objects() or suspect.child or birth.has_waited)
        if owners and not is_seen:
            birth.has_waited, birth.waits = True, _Lives(owners)
        elif birth.waits is None or birth.waits.is_over():
            rest.append(suspect)
    return rest


def _may_hide(root: Any) -> bool:
    """Tells whether there may be objects in C below this one."""
    return gc.is_tracked(root) and not leads_everywhere(root)
