"""Writes the table of causes in docs/reference/causes.md from the rules: `python tools/make_causes.py [--check]`.

Needs sockguard to be importable. With --check it changes nothing, and its exit status is 1 if the page has grown old.
"""

import re
import sys
from pathlib import Path

from sockguard._core.causes import RULES

PAGE = Path(__file__).parent.parent / "docs" / "reference" / "causes.md"
BEGIN = "<!-- made from sockguard/_core/causes.py by tools/make_causes.py -->"
END = "<!-- end of what is made -->"
BETWEEN = re.compile(f"(?<={re.escape(BEGIN)}\n).*?(?={re.escape(END)})", re.DOTALL)


def table() -> str:
    """Makes the table: a row for each rule, in the order in which the rules are tried."""
    rows = [
        f"| {n} | [`{rule.cause.value}`](#{rule.cause.value}) | {rule.remedy} |"
        for n, rule in enumerate(RULES, start=1)
    ]
    return "\n".join(["", "| | cause | remedy |", "|---|---|---|", *rows, "", ""])


def fill(text: str) -> str:
    """Puts the table between the markers of a page.

    Raises:
        ValueError: The markers are not there, or not once.
    """
    filled, n_times = BETWEEN.subn(lambda _: table(), text)
    if n_times != 1:
        msg = f"{PAGE} has the marks {BEGIN} ... {END} {n_times} times, not once"
        raise ValueError(msg)
    return filled


def main(*, check: bool) -> int:
    """Rewrites the page, or only says whether that is due."""
    text = PAGE.read_text(encoding="utf-8")
    filled = fill(text)
    if check and filled != text:
        print(f"{PAGE.name} is older than the rules: run tools/make_causes.py")
        return 1
    if filled != text:
        PAGE.write_text(filled, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(check="--check" in sys.argv[1:]))
