"""What the tools share that write tables into pages of docs/: between two marks, and with --check only looking."""

from collections.abc import Callable
from pathlib import Path

__all__ = ["refresh", "splice"]


def splice(text: str, begin: str, end: str, made: str) -> str:
    """Puts what was made between its marks in a page.

    Raises:
        ValueError: The marks are not there, or not once.
    """
    opening = begin + "\n"
    if (text.count(opening), text.count(end)) != (1, 1):
        msg = f"the page must have {begin} once, and {end} once"
        raise ValueError(msg)
    before, _, rest = text.partition(opening)
    return before + opening + made + end + rest.partition(end)[2]


def refresh(page: Path, fill: Callable[[str], str], tool: str, *, check: bool) -> int:
    """Rewrites a page, or only says whether that is due; gives the exit status."""
    text = page.read_text(encoding="utf-8")
    filled = fill(text)
    if filled == text:
        return 0
    if check:
        print(f"{page.name} is older than the code: run tools/{tool}")
        return 1
    page.write_text(filled, encoding="utf-8")
    return 0
