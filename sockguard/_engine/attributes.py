"""The attributes of any object, read past its properties and `__getattr__`: no code of the application runs."""

from collections.abc import Iterator
from types import GetSetDescriptorType, MemberDescriptorType
from typing import Any

__all__ = ["attributes", "instance_dict", "module_of", "type_name"]


def attributes(thing: object) -> Iterator[tuple[str, object]]:
    """Yields what an object has of its own, in `__dict__` and in slots, by name."""
    own = instance_dict(thing)
    if own:
        yield from [(name, value) for name, value in list(own.items()) if type(name) is str]
    for name, member in _class_entries(thing):
        if type(member) is MemberDescriptorType:
            try:
                yield name, member.__get__(thing, type(thing))
            except AttributeError:
                continue  # a slot that is empty


def instance_dict(thing: object) -> dict[Any, Any] | None:
    """Gives the `__dict__` of an object, even if its class pretends to have another one; None if it has none."""
    for name, entry in _class_entries(thing):
        if name == "__dict__" and type(entry) is GetSetDescriptorType:
            own = entry.__get__(thing, type(thing))
            return own if type(own) is dict else None
    return None


def module_of(thing: object) -> str:
    """Names the module of an object's class; "" if it has none."""
    module = type.__getattribute__(type(thing), "__module__")
    return module if type(module) is str else ""


def type_name(kind: type) -> str:
    """Names a class, without the functions that it was defined in."""
    name: str = type.__getattribute__(kind, "__qualname__")
    return name.rpartition("<locals>.")[2]


def _class_entries(thing: object) -> Iterator[tuple[str, object]]:
    for kind in type.__getattribute__(type(thing), "__mro__"):
        yield from list(type.__getattribute__(kind, "__dict__").items())
