"""What may a field of the policy be? Kinds of values, as objects, as text and in a table, with the hint for all else.

Text is what variables and options hold, tables are TOML. Both only translate; what a
value may be is checked in one place, `Kind.check`, so that all ways in agree.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, ClassVar, NamedTuple, Self

from sockguard.errors import PolicyError

__all__ = [
    "Checked",
    "FieldInfo",
    "Kind",
    "Layer",
    "about",
    "callable_or_bytes",
    "choice",
    "find",
    "nearest",
    "number",
    "read_layer",
    "read_number",
    "record",
    "whole",
]

OFF = frozenset({"off", "none"})
"""The texts for None, in any case. TOML has no null, so `false` stands for it there too."""
LARGEST = 1e9
"""Seconds or bytes per second: 30 years, 8 Gbit/s. More is a mistake in the unit, and larger than C timers can hold."""


class Kind(NamedTuple):
    """What the values of a field may be, and how they are told from text and tables."""

    unit: str
    """For tables and help; of a word, all that it may be."""
    hint: str
    """Completes "give ..."."""
    accepts: Callable[[object], bool]
    store: Callable[..., object]
    """Brings an accepted value into its one form, so that equal policies compare equal."""
    from_text: Callable[[str], object]
    """Translates what it can, and hands the rest on as it is: the check then refuses it."""
    from_table: Callable[[object], object]
    can_be_off: bool

    def check(self, name: str, value: object) -> object:
        """Gives the value in its stored form.

        Raises:
            PolicyError: It makes no sense.
        """
        if value is None and self.can_be_off:
            return None
        if not self.accepts(value):
            raise PolicyError(name, value, f"give {self.hint}" + "; None turns it off" * self.can_be_off)
        return self.store(value)

    def read_text(self, text: str) -> object:
        """Translates the text of a variable or an option; what is no sense is left for the check."""
        text = text.strip()
        return None if text.lower() in OFF else self.from_text(text)

    def read_table(self, value: object) -> object:
        """Translates a value of a TOML table; what is no sense is left for the check."""
        is_off = value is False or (isinstance(value, str) and value.lower() in OFF)
        return None if is_off else self.from_table(value)


def _same(value: object) -> object:
    return value


def _is_number(value: object) -> bool:
    # bool is an int to Python; `fin_timeout=True` is no span of time to anybody.
    return isinstance(value, int | float) and not isinstance(value, bool)


def read_number(text: str) -> object:
    """Reads a whole or a decimal number; gives the text back if it is none."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def number(unit: str, *, article: str = "", most: float = LARGEST, can_be_off: bool = True) -> Kind:
    """Makes a kind of decimal numbers above 0, stored as float."""
    hint = f"{article}{unit} above 0, at most {most:.0f}"

    def accepts(value: object) -> bool:
        return _is_number(value) and 0 < value <= most  # type: ignore[operator]  # nan is not, whatever the order

    return Kind(unit, hint, accepts, float, read_number, _same, can_be_off)


def whole(unit: str, least: int, most: int) -> Kind:
    """Makes a kind of whole numbers, which cannot be off."""

    def accepts(value: object) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most

    return Kind(unit, f"{unit}, a whole number from {least} to {most}", accepts, int, read_number, _same, False)


def choice(words: tuple[str, ...], *, can_be_off: bool = False) -> Kind:
    """Makes a kind of few words."""

    def accepts(value: object) -> bool:
        return isinstance(value, str) and value in words

    return Kind(" or ".join(words), " or ".join(map(repr, words)), accepts, str, str.lower, _same, can_be_off)


def callable_or_bytes(hint: str, *, can_be_off: bool = False) -> Kind:
    """Makes a kind of bytes, or of a function that gives or judges bytes; a table has them as text, in UTF-8."""

    def accepts(value: object) -> bool:
        return callable(value) or (isinstance(value, bytes) and len(value) > 0)

    def encoded(value: object) -> object:
        return value.encode(errors="surrogatepass") if isinstance(value, str) else value

    return Kind("bytes", hint, accepts, _same, _same, encoded, can_be_off)


def record(
    hint: str, of: type, from_text: Callable[[str], object] = _same, from_table: Callable[[object], object] = _same
) -> Kind:
    """Makes a kind of records that have fields of their own."""
    return Kind(of.__name__, hint, lambda value: isinstance(value, of), _same, from_text, from_table, True)


class FieldInfo(NamedTuple):
    """What help and documentation say of one field."""

    name: str
    default: object
    unit: str
    meaning: str
    reason: str
    """Why the default is what it is, and who else has it so."""


def about(kind: Kind, meaning: str, reason: str = "") -> dict[str, Any]:
    """Makes the metadata of a field: what it may be, what it means, and why its default is what it is."""
    return {"kind": kind, "unit": kind.unit, "meaning": meaning, "reason": reason}


class Checked:
    """Is the base of dataclasses whose fields are checked when one is made, however it is made."""

    __slots__ = ()
    PREFIX: ClassVar[str] = ""
    """Stands before the name of a field in errors."""
    REQUIRED: ClassVar[tuple[str, ...]] = ()
    """Fields without a default."""

    def __new__(cls, *_: object, **fields: object) -> Self:
        """Refuses unknown fields in our own words, before `__init__` would raise a TypeError without remedy."""
        kinds = cls.kinds()
        for name, value in fields.items():
            find(kinds, name, value, cls.PREFIX)
        return object.__new__(cls)

    def __post_init__(self) -> None:
        for name, kind in self.kinds().items():
            object.__setattr__(self, name, kind.check(self.PREFIX + name, getattr(self, name)))

    @classmethod
    def from_table(cls, table: Mapping[str, object]) -> Self:
        """Makes a record of a TOML table.

        Raises:
            PolicyError: A field or a value makes no sense, or one is missing.
        """
        kinds = cls.kinds()
        given = {name: find(kinds, name, value, cls.PREFIX).read_table(value) for name, value in table.items()}
        for name in cls.REQUIRED:
            kinds[name].check(cls.PREFIX + name, given.get(name))
        return cls(**given)

    @classmethod
    def kinds(cls) -> dict[str, Kind]:
        """Tells what the value of each field may be."""
        fields: dict[str, Any] = cls.__dataclass_fields__  # type: ignore[attr-defined]  # each subclass is a dataclass
        return {name: each.metadata["kind"] for name, each in fields.items()}

    @classmethod
    def describe(cls) -> tuple[FieldInfo, ...]:
        """Tells all fields in order, for help and documentation."""
        fields: dict[str, Any] = cls.__dataclass_fields__  # type: ignore[attr-defined]
        return tuple(
            FieldInfo(name, each.default, *(each.metadata[key] for key in ("unit", "meaning", "reason")))
            for name, each in fields.items()
        )


def find(kinds: Mapping[str, Kind], name: object, value: object, prefix: str = "") -> Kind:
    """Looks a field up by its name.

    Raises:
        PolicyError: There is no such field; the remedy has the nearest, or else all.
    """
    if isinstance(name, str) and name in kinds:
        return kinds[name]
    near = nearest(str(name), kinds)
    remedy = f"there is no such field, {f'the nearest is {near}' if near else 'only ' + ', '.join(kinds)}"
    raise PolicyError(prefix + str(name), value, remedy)


def nearest(name: str, known: Iterable[str]) -> str:
    """Finds the known name that was probably meant; empty if none is near."""
    folded = name.lower().replace("-", "_")[:64]
    distance, best = min((_distance(folded, one), one) for one in known)
    return best if distance <= max(2, len(best) // 3) else ""


def _distance(one: str, other: str) -> int:
    """Counts the letters to change, add or leave out (Levenshtein; difflib would load `re`)."""
    row = list(range(len(other) + 1))
    for n, letter in enumerate(one, 1):
        above, row = row, [n]
        for m, its_letter in enumerate(other, 1):
            row.append(min(above[m] + 1, row[m - 1] + 1, above[m - 1] + (letter != its_letter)))
    return row[-1]


class Layer(NamedTuple):
    """Some fields of a policy, as values, and where they come from."""

    source: str
    """Named in errors; empty for arguments in the code."""
    values: Mapping[str, object]


def read_layer(
    kinds: Mapping[str, Kind], layer: Layer, translate: Callable[[Kind, Any], object] = lambda _, value: value
) -> Layer:
    """Translates and checks all values of a layer.

    Raises:
        PolicyError: A field or a value makes no sense; it names the source.
    """
    try:
        return Layer(layer.source, dict(_read(kinds, layer.values, translate)))
    except PolicyError as error:
        raise PolicyError(error.field, error.value, error.remedy, error.source or layer.source) from None


def _read(
    kinds: Mapping[str, Kind], values: object, translate: Callable[[Kind, Any], object]
) -> Iterator[tuple[str, object]]:
    if not isinstance(values, Mapping):
        raise PolicyError("policy", values, "give a table of fields and their values")
    for name, value in values.items():
        kind = find(kinds, name, value)
        yield name, kind.check(name, translate(kind, value))
