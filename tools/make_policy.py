"""Writes the tables in docs/reference/policy.md from the policy's own words: `python tools/make_policy.py [--check]`.

Needs sockguard to be importable. With --check it changes nothing, and its exit status is 1 if the page has grown old.
"""

import sys
from dataclasses import MISSING
from pathlib import Path

from sockguard._core.policy import Heartbeat, Keepalive, Policy
from sockguard._core.policy_fields import Checked

PAGE = Path(__file__).parent.parent / "docs" / "reference" / "policy.md"
RECORDS: dict[str, type[Checked]] = {"Policy": Policy, "Keepalive": Keepalive, "Heartbeat": Heartbeat}
BEGIN = "<!-- {} made from sockguard/_core by tools/make_policy.py -->"
END = "<!-- end of {} -->"


def table(record: type[Checked]) -> str:
    """Makes the table of a record: a row for each field, in order."""
    rows = [
        f"| `{name}` | {show(default)} | {unit} | {meaning} | {reason} |"
        for name, default, unit, meaning, reason in record.describe()
    ]
    head = ["| field | default | unit | meaning | why this default |", "|---|---|---|---|---|"]
    return "\n".join(["", *head, *rows, "", ""])


def show(default: object) -> str:
    """Writes a default as code does; a field without one has to be given."""
    if default is MISSING:
        return "-"
    whole = isinstance(default, float) and default.is_integer()
    return f"`{f'{default:g}' if whole else repr(default)}`"


def fill(text: str) -> str:
    """Puts each table between its marks in the page.

    Raises:
        ValueError: Marks are not there, or not once.
    """
    for name, record in RECORDS.items():
        begin, end = BEGIN.format(name) + "\n", END.format(name)
        if (text.count(begin), text.count(end)) != (1, 1):
            msg = f"{PAGE} must have {begin.strip()} once, and {end} once"
            raise ValueError(msg)
        before, _, rest = text.partition(begin)
        text = before + begin + table(record) + end + rest.partition(end)[2]
    return text


def main(*, check: bool) -> int:
    """Rewrites the page, or only says whether that is due."""
    text = PAGE.read_text(encoding="utf-8")
    filled = fill(text)
    if check and filled != text:
        print(f"{PAGE.name} is older than the policy: run tools/make_policy.py")
        return 1
    if filled != text:
        PAGE.write_text(filled, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(check="--check" in sys.argv[1:]))
