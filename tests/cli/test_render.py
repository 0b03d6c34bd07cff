"""How ages, sizes, counts and tables look, at two widths, in a terminal and in a pipe."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.text import Text

from sockguard.cli.render import PIPED_WIDTH, Column, age_text, indented, make_console, make_table, plural, size_text


@pytest.fixture(autouse=True)
def _no_settings_of_ours(monkeypatch):
    for name in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0.0 s"),
        (4.21, "4.2 s"),
        (59.9, "59.9 s"),
        (60.0, "1 min 00 s"),
        (727.9, "12 min 07 s"),
        (3599.9, "59 min 59 s"),
        (3600.0, "1 h 00 min"),
        (11100.0, "3 h 05 min"),
        (86399.0, "23 h 59 min"),
        (86400.0, "1 d 00 h"),
        (1e7, "115 d 17 h"),
    ],
)
def test_age_in_at_most_two_units(seconds, text):
    """An age is written in the units that a person would use."""
    assert age_text(seconds) == text


@pytest.mark.parametrize(("kind", "text"), [("exact", "5.0 s"), ("about", "~5.0 s"), ("at_least", "≥5.0 s")])
def test_age_says_how_far_to_trust_it(kind, text):
    """What is only about right, or a lower bound, is marked so."""
    assert age_text(5, kind) == text


def test_age_that_is_not_known():
    """An unknown age is a question mark, never a number."""
    assert age_text(None, "unknown") == age_text(None) == "?"


@given(st.floats(0, 59.94))
def test_no_age_shows_sixty_seconds(seconds):
    """Rounding never shows 60.0 s where a minute begins."""
    assert age_text(seconds) != "60.0 s"


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [
        (0, ""),
        (1, "1 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (90317, "88.2 KiB"),
        (1 << 20, "1.0 MiB"),
        (1468006, "1.4 MiB"),
    ],
)
def test_size(n_bytes, text):
    """A size has its unit; nothing is an empty cell."""
    assert size_text(n_bytes) == text


@pytest.mark.parametrize(
    ("count", "noun", "text"),
    [(0, "leak", "0 leaks"), (1, "leak", "1 leak"), (2, "leak", "2 leaks"), (2, "process", "2 processes")],
)
def test_plural(count, noun, text):
    """A count agrees with its noun."""
    assert plural(count, noun) == text


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(renderable: object, stream: io.StringIO | None = None) -> str:
    stream = stream or io.StringIO()
    make_console(stream).print(renderable)
    return stream.getvalue()


def test_pipe_is_wide_and_plain():
    """In a pipe nothing is coloured, and lines may be long."""
    assert shown(Text("x" * PIPED_WIDTH, style="bold red")) == "x" * PIPED_WIDTH + "\n"
    assert shown(Text("x" * PIPED_WIDTH + "y")).count("\n") == 2


def test_terminal_is_coloured_unless_told_otherwise(monkeypatch):
    """In a terminal styles are shown, and NO_COLOR switches colours off."""
    monkeypatch.setenv("TERM", "xterm")
    assert "\x1b[31m" in shown(Text("x", style="red"), Terminal())
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[3" not in shown(Text("x", style="red"), Terminal())


def test_columns_of_the_environment_are_obeyed(monkeypatch):
    """COLUMNS sets the width, in a pipe as well."""
    monkeypatch.setenv("COLUMNS", "40")
    assert make_console(io.StringIO()).width == 40


def test_text_is_never_taken_for_markup():
    """A command line with brackets or colons is printed as it is, not as rich's markup or emoji."""
    line = "python [bold]x[/bold] :smile: 'a' 1.5"
    assert shown(line) == line + "\n"


COLUMNS = (Column("AGE", "right"), Column("PEER", may_fold=True), Column("CAUSE", style="bold"))


def test_table_has_titles_and_aligned_cells():
    """Numbers are on the right, text on the left, two blanks between columns."""
    lines = shown(make_table(COLUMNS, [("1 s", "host:1", "unread"), ("10 s", "h:22", "x")])).splitlines()
    assert [line.rstrip() for line in lines] == [" AGE  PEER    CAUSE", " 1 s  host:1  unread", "10 s  h:22    x"]


def test_table_leaves_out_empty_columns():
    """A column with nothing in it takes no room."""
    text = shown(make_table(COLUMNS, [("1 s", "", "unread"), ("2 s", "", "shared")]))
    assert "PEER" not in text
    assert "AGE" in text


def test_table_without_titles():
    """Where no column has a title there is no line for them."""
    assert shown(make_table([Column(""), Column("")], [("a", "b")])).strip() == "a  b"


def test_narrow_table_folds_only_what_may_fold(monkeypatch):
    """On a narrow screen addresses go on in the next line; ages and causes are never broken."""
    monkeypatch.setenv("COLUMNS", "30")
    row = ("12 min 07 s", "[2001:db8::1234:5678]:49738", "unread")
    lines = shown(make_table(COLUMNS, [row])).splitlines()
    assert max(map(len, lines)) <= 30
    assert "12 min 07 s" in lines[1]
    assert "unread" in lines[1]
    folded = "".join(line[13:22].strip() for line in lines[1:])
    assert folded == row[1]


def test_indented():
    """Something indented starts two columns further right, below the empty lines asked for."""
    assert shown(indented(Text("x"), above=1)).splitlines() == ["   ", "  x"]
