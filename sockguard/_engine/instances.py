"""All objects of a class that live in this process, found by the garbage collector's books.

By way of the class, to which each of its objects refers, and not by gc.get_objects(): its list
holds every tuple, even one that tuple() in another thread is still filling. That thread then
gets a SystemError from CPython (up to 3.13 at least), as a tuple with a second owner cannot be
cut to its size; and the list is there for as long as somebody goes through it.
"""

import gc
from typing import Any

__all__ = ["instances_of"]


def instances_of(kind: type) -> list[Any]:
    """Lists the objects of a class that was written in Python, and of those derived from it."""
    kinds = _family(kind)
    return [thing for thing in gc.get_referrers(*kinds) if type(thing) in kinds]


def _family(kind: type) -> set[type]:
    below: list[type] = type.__subclasses__(kind)
    return {kind}.union(*map(_family, below))
