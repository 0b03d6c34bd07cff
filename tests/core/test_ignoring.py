"""The lines of an ignore list: what they match, and which make no sense."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.test_leftovers import TCP
from sockguard._core.ignoring import fits, parse_rule
from sockguard.errors import UsageError

UNIX = TCP._replace(protocol="Unix", local="/run/x.sock", remote="")


@pytest.mark.parametrize(
    ("line", "leftover", "is_match"),
    [
        ("created-by:app.fetch", TCP, True),
        ("created-by:lib.dial", TCP, True),
        ("created-by:app", TCP, False),
        ("created-by:app.*", TCP, True),
        (" created-by : app.fetch ", TCP, True),
        ("peer:127.0.0.1:8000", TCP, True),
        ("peer:127.0.0.1:*", TCP, True),
        ("peer:127.0.0.1:80", TCP, False),
        ("peer:*", TCP._replace(remote=""), False),
        ("port:8000", TCP, True),
        ("port:50000", TCP, True),
        ("port:800", TCP, False),
        ("port:0", UNIX, False),
        ("path:/run/*", UNIX, True),
        ("path:127*", TCP, False),
    ],
)
def test_line_matches(line, leftover, is_match):
    """Functions anywhere on the stack, the peer, either port, a path."""
    assert parse_rule(line).matches(leftover) == is_match


@pytest.mark.parametrize("line", ["", "8000", "port:http", "port:", "created-by", "made-by:x", ":x"])
def test_nonsense_is_refused(line):
    """A line of no known form names all forms."""
    with pytest.raises(UsageError, match=r"created-by:module\.function, peer:host:port, port:N"):
        parse_rule(line)


def test_rule_can_be_written_back():
    """The text of a rule makes the same rule."""
    assert parse_rule(str(parse_rule("peer:[::1]:80"))) == ("peer", "[::1]:80")


@given(st.lists(st.text("ab", max_size=3), min_size=1, max_size=4), st.lists(st.text("ab", max_size=3), max_size=3))
def test_star_stands_for_anything(parts, fillings):
    """What is made by putting texts in the place of the stars fits, as it does for a regular expression."""
    fillings = [*fillings, "", "", ""][: len(parts) - 1]
    text = parts[0] + "".join(filling + part for filling, part in zip(fillings, parts[1:], strict=True))
    assert fits("*".join(parts), text)


@given(st.text("ab*", max_size=5), st.text("ab", max_size=6))
def test_star_is_that_of_fnmatch(pattern, text):
    """It agrees with the standard library's patterns."""
    from fnmatch import fnmatchcase  # noqa: PLC0415 - for this comparison only

    assert fits(pattern, text) == fnmatchcase(text, pattern)
