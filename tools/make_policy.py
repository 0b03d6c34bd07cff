"""Writes the tables in docs/reference/policy.md from the policy's own words: `python tools/make_policy.py [--check]`.

Needs sockguard to be importable. With --check it changes nothing, and its exit status is 1 if the page has grown old.
"""

import sys
from dataclasses import MISSING
from pathlib import Path

from made_pages import refresh, splice

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
    """Puts each table between its marks in the page."""
    for name, record in RECORDS.items():
        text = splice(text, BEGIN.format(name), END.format(name), table(record))
    return text


if __name__ == "__main__":
    sys.exit(refresh(PAGE, fill, "make_policy.py", check="--check" in sys.argv[1:]))
