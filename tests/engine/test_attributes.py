"""Attributes are read past whatever a class does to hide or to make them."""

from sockguard._engine.attributes import attributes, instance_dict, module_of, type_name


class Forbidden(type):
    """A metaclass whose classes answer nothing."""

    def __getattribute__(cls, name):
        raise AssertionError(name)


class Hostile(metaclass=Forbidden):
    """A class that fails the test if any code of it runs."""

    def __init__(self):
        object.__setattr__(self, "conn", 7)

    def __getattribute__(self, name):
        raise AssertionError(name)

    def __eq__(self, other):
        raise AssertionError

    __hash__ = None

    @property
    def secret(self):
        raise AssertionError


class Slotted:
    """A class with slots, one of them empty."""

    __slots__ = ("conn", "empty")

    def __init__(self):
        self.conn = 7


class WithBoth(Slotted):
    """A subclass with a dictionary."""

    def __init__(self):
        super().__init__()
        self.other = 8


class Proxy:
    """A class that pretends to be another object, as werkzeug's LocalProxy does."""

    @property
    def __dict__(self):
        raise AssertionError


class Odd:
    """A class whose dictionary is of another kind, and whose module is no text."""

    __module__ = 5


def test_attributes_are_those_in_the_dictionary_and_in_slots():
    """Empty slots are left out; names that are no text too."""
    thing = WithBoth()
    thing.__dict__[5] = 9
    assert dict(attributes(thing)) == {"other": 8, "conn": 7}
    assert dict(attributes(Slotted())) == {"conn": 7}
    assert dict(attributes(7)) == {}


def test_no_code_of_the_class_runs():
    """Not of its metaclass either."""
    assert dict(attributes(Hostile())) == {"conn": 7}
    assert type_name(Hostile) == "Hostile"
    assert module_of(Hostile()) == __name__


def test_dictionary_is_the_real_one():
    """What only looks like it is passed over."""
    thing = WithBoth()
    assert instance_dict(thing) is thing.__dict__
    assert instance_dict(Proxy()) is None
    assert instance_dict(7) is None


def test_subclass_of_dict_as_dictionary_is_left_alone():
    """Its methods would be code of the application."""

    class Strange(dict):
        pass

    thing = WithBoth()
    thing.__dict__ = Strange()
    assert instance_dict(thing) is None


def test_module_that_is_no_text_is_none():
    """A class may say anything."""
    assert module_of(Odd()) == ""


def test_name_is_without_the_function_around():
    """`handle.<locals>.Session` is called Session."""

    class Session:
        class Inner:
            pass

    assert type_name(Session.Inner) == "Session.Inner"
