"""Writes the tables in docs/reference/events.md from the code: `python tools/make_events.py [--check]`.

Needs sockguard to be importable. With --check it changes nothing, and its exit status is 1 if the page has grown old.
"""

import re
import sys
from pathlib import Path

from sockguard._core.events import EVENTS, FIELDS, EventKind

PAGE = Path(__file__).parent.parent / "docs" / "reference" / "events.md"
BEGIN = "<!-- made from sockguard/_core/events.py by tools/make_events.py -->"
END = "<!-- end of what is made -->"
BETWEEN = re.compile(f"(?<={re.escape(BEGIN)}\n).*?(?={re.escape(END)})", re.DOTALL)


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
    """Puts the tables between the markers of a page.

    Raises:
        ValueError: The markers are not there, or not once.
    """
    filled, n_times = BETWEEN.subn(lambda _: tables(), text)
    if n_times != 1:
        msg = f"{PAGE} has the marks {BEGIN} ... {END} {n_times} times, not once"
        raise ValueError(msg)
    return filled


def main(*, check: bool) -> int:
    """Rewrites the page, or only says whether that is due."""
    text = PAGE.read_text(encoding="utf-8")
    filled = fill(text)
    if check and filled != text:
        print(f"{PAGE.name} is older than the code: run tools/make_events.py")
        return 1
    if filled != text:
        PAGE.write_text(filled, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(check="--check" in sys.argv[1:]))
