"""Writes the table of causes in docs/reference/causes.md from the rules: `python tools/make_causes.py [--check]`.

Needs sockguard to be importable. With --check it changes nothing, and its exit status is 1 if the page has grown old.
"""

import sys
from pathlib import Path

from made_pages import refresh, splice

from sockguard._core.causes import RULES

PAGE = Path(__file__).parent.parent / "docs" / "reference" / "causes.md"
BEGIN = "<!-- made from sockguard/_core/causes.py by tools/make_causes.py -->"
END = "<!-- end of what is made -->"


def table() -> str:
    """Makes the table: a row for each rule, in the order in which the rules are tried."""
    rows = [
        f"| {n} | [`{rule.cause.value}`](#{rule.cause.value}) | {rule.remedy} |"
        for n, rule in enumerate(RULES, start=1)
    ]
    return "\n".join(["", "| | cause | remedy |", "|---|---|---|", *rows, "", ""])


def fill(text: str) -> str:
    """Puts what is made between the marks of the page."""
    return splice(text, BEGIN, END, table())


if __name__ == "__main__":
    sys.exit(refresh(PAGE, fill, "make_causes.py", check="--check" in sys.argv[1:]))
