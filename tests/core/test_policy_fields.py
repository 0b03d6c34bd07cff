"""Kinds of fields, each by itself: what they take, what they store, and how a misspelt name is met."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sockguard._core.policy_fields import (
    Checked,
    FieldInfo,
    Layer,
    about,
    callable_or_bytes,
    choice,
    nearest,
    number,
    read_layer,
    read_number,
    record,
    whole,
)
from sockguard.errors import PolicyError

SPAN = number("seconds", most=100)
N_APPLES = whole("apples", 2, 9)


@dataclass(frozen=True, slots=True)
class Tree(Checked):
    """A record of two fields, one without a default."""

    PREFIX = "tree."
    REQUIRED = ("age",)

    age: float = field(metadata=about(number("years", article="some ", can_be_off=False), "How old it is."))
    apples: int = field(default=3, metadata=about(N_APPLES, "How many it bears.", "As the neighbour's."))


TREE = record("a tree", Tree, from_table=Tree.from_table)


@given(st.integers() | st.floats())
def test_a_number_is_above_0_and_up_to_its_limit(value):
    """What is taken is stored as a float and nothing else passes: no 0, no nan, nothing endless."""
    if 0 < value <= 100:
        assert repr(SPAN.check("x", value)) == repr(float(value))
    else:
        with pytest.raises(PolicyError):
            SPAN.check("x", value)


@given(st.integers() | st.floats() | st.booleans())
def test_a_whole_number_lies_between_its_limits(value):
    """A float is none, even if it could be; nor is a truth value."""
    if type(value) is int and 2 <= value <= 9:
        assert N_APPLES.check("x", value) == value
    else:
        with pytest.raises(PolicyError, match=r"give apples, a whole number from 2 to 9$"):
            N_APPLES.check("x", value)


def test_a_choice_is_stored_as_plain_text():
    """A subclass of str, such as an enum's member, is taken for what it says."""

    class Word(str):
        __slots__ = ()

    assert type(choice(("fin", "reset")).check("x", Word("fin"))) is str


@pytest.mark.parametrize("value", [b"x", print])
def test_bytes_or_a_function(value):
    """Both are stored as they are."""
    assert callable_or_bytes("bytes").check("x", value) is value


def test_bytes_in_a_file_are_text():
    """TOML has no bytes; what is no text is left for the check."""
    kind = callable_or_bytes("bytes")
    assert (kind.read_table("é\n"), kind.read_table("\ud800"), kind.read_table(3)) == (
        b"\xc3\xa9\n",
        b"\xed\xa0\x80",
        3,
    )


@given(st.integers() | st.floats(allow_nan=False))
def test_a_number_is_read_as_it_was_written(value):
    """Whole numbers stay whole."""
    assert repr(read_number(str(value))) == repr(value)


def test_what_is_no_number_stays_text():
    """The check then shows what was written."""
    assert read_number("2 s") == "2 s"


def test_words_for_off_are_understood_in_text_and_tables():
    """In any case, with room around in text; other text goes on to be read."""
    assert [SPAN.read_text(text) for text in (" off ", "None", " 2 ")] == [None, None, 2]
    assert [SPAN.read_table(value) for value in ("Off", "NONE", False, 2, True)] == [None, None, None, 2, True]
    assert SPAN.check("x", None) is None


# Records


def test_record_is_checked_however_it_is_made():
    """By position, name or from a table: values are stored in their form, and nonsense is refused by its full name."""
    assert Tree(7) == Tree(age=7.0, apples=3) == Tree.from_table({"age": 7}) == TREE.read_table({"age": 7})
    for make in (lambda: Tree(7, 1), lambda: Tree(age=7, apples=1), lambda: Tree.from_table({"age": 7, "apples": 1})):
        with pytest.raises(
            PolicyError, match=r"^tree\.apples=1 makes no sense: give apples, a whole number from 2 to 9$"
        ):
            make()


def test_record_from_a_table_needs_its_required_fields():
    """The first that is missing is asked for."""
    with pytest.raises(
        PolicyError, match=r"^tree\.age=None makes no sense: give some years above 0, at most 1000000000$"
    ):
        Tree.from_table({"apples": 3})


def test_record_describes_its_fields():
    """A field without a default has no reason for one."""
    age, apples = Tree.describe()
    assert (age.name, age.unit, age.meaning, age.reason) == ("age", "years", "How old it is.", "")
    assert apples == FieldInfo("apples", 3, "apples", "How many it bears.", "As the neighbour's.")


def test_misspelt_field_of_a_record_is_refused():
    """Before Python would say the same without a remedy; what is near to nothing gets the whole list."""
    for name, remedy in {"aples": "the nearest is apples", "frobnicate": "only age, apples"}.items():
        with pytest.raises(PolicyError, match=rf"^tree\.{name}=1 makes no sense: there is no such field, {remedy}$"):
            Tree(**{name: 1})


# Names


@pytest.mark.parametrize(
    ("name", "meant"),
    [("fin-timeout", "fin_timeout"), ("FIN_TIMOUT", "fin_timeout"), ("finn_timeot", "fin_timeout"), ("moed", "mode"),
     ("timeout", ""), ("", ""), ("x" * 10**6, "")],
    ids=range(7),
)  # fmt: skip
def test_a_misspelt_name_is_understood(name, meant):
    """Case and hyphens do not matter, and a letter or two; what is farther off is not guessed, however long it is."""
    assert nearest(name, ["mode_of_all", "mode", "fin_timeout"]) == meant


WORDS = st.lists(st.text("abc_", min_size=1), min_size=1)


@given(WORDS.flatmap(lambda words: st.tuples(st.just(words), st.sampled_from(words))))
def test_a_known_name_is_nearest_to_itself(known_and_one):
    """No name is ever corrected to another one that is right."""
    known, one = known_and_one
    assert nearest(one, known) == one


# Layers


def test_layer_is_translated_and_checked():
    """Its values come out in their form, under the same source."""
    layer = Layer("a.toml", {"tree": {"age": 3}, "span": False})
    assert read_layer({"tree": TREE, "span": SPAN}, layer, type(TREE).read_table) == Layer(
        "a.toml", {"tree": Tree(3), "span": None}
    )


def test_error_names_the_innermost_source():
    """A layer that was read before with a source of its own keeps it."""
    kinds = {"tree": TREE._replace(store=lambda tree: Tree.from_table({"age": 0}))}
    with pytest.raises(PolicyError) as caught:
        read_layer(kinds, Layer("outer", {"tree": Tree(1)}))
    assert (caught.value.field, caught.value.source) == ("tree.age", "outer")

    def refuse(_):
        raise PolicyError("tree", 1, "plant one", "inner")

    with pytest.raises(PolicyError, match=r"^tree=1 \(from inner\) makes no sense: plant one$"):
        read_layer({"tree": TREE._replace(store=refuse)}, Layer("outer", {"tree": Tree(1)}))


def test_layer_that_is_no_table_is_refused():
    """A single value stands where a table should."""
    with pytest.raises(PolicyError, match=r"^policy=3 \(from a\.toml\) makes no sense: give a table of fields"):
        read_layer({"span": SPAN}, Layer("a.toml", 3))
