"""Writes the tables in docs/reference/events.md from the code: `python tools/make_events.py [--check]`.

Needs sockguard to be importable. With --check it changes nothing, and its exit status is 1 if the page has grown old.
"""

import sys
from pathlib import Path

from made_pages import refresh, splice

from sockguard._core.events import EVENTS, FIELDS, EventKind

PAGE = Path(__file__).parent.parent / "docs" / "reference" / "events.md"
BEGIN = "<!-- made from sockguard/_core/events.py by tools/make_events.py -->"
END = "<!-- end of what is made -->"


def tables() -> str:
    """Makes the tables: one of the events, and one of their fields."""
    events = [f"| `{kind.name}` | {level(kind)} | {kind.told} | {fields(kind)} |" for kind in EVENTS]
    units = [f"| `{field.name}` | {field.unit or '-'} | {field.meaning} |" for field in FIELDS]
    return "\n".join(
        [
            *("", "| event | level | told when | fields |", "|---|---|---|---|", *events),
            *("", "## Fields", "", "| field | unit | meaning |", "|---|---|---|", *units, "", ""),
        ]
    )


def level(kind: EventKind) -> str:
    """Names the level, and what it is after the first of a site."""
    return kind.level + (f", then {kind.level_after}" if kind.level_after else "")


def fields(kind: EventKind) -> str:
    """Lists the fields."""
    return " ".join(f"`{name}`" for name in kind.fields)


def fill(text: str) -> str:
    """Puts what is made between the marks of the page."""
    return splice(text, BEGIN, END, tables())


if __name__ == "__main__":
    sys.exit(refresh(PAGE, fill, "make_events.py", check="--check" in sys.argv[1:]))
