"""What the leaking process itself tells, as text: where leaks were opened, who holds them, what blocks their owner."""

from collections import Counter
from collections.abc import Iterable, Iterator

from sockguard._core.leaks import Leak
from sockguard.cli.render import age_text

__all__ = ["told_by_process"]

MAX_ROWS = 5
"""Different answers to one question that are shown; the JSON has all."""


def told_by_process(leaks: Iterable[Leak]) -> Iterator[tuple[str, str]]:
    """Makes rows of a question and its answer, the most frequent answers of each first."""
    answers: dict[str, Counter[str]] = {}
    for leak in leaks:
        for question, answer in _answers(leak):
            answers.setdefault(question, Counter())[answer] += 1
    for question, counts in answers.items():
        for answer, count in counts.most_common(MAX_ROWS):
            yield f"{question} x{count}", answer
        if len(counts) > MAX_ROWS:
            yield "", f"and {len(counts) - MAX_ROWS} more (--json has all)"


def _answers(leak: Leak) -> Iterator[tuple[str, str]]:
    if leak.created_at:
        yield "opened at", ", called at ".join(leak.created_at)
    if leak.held_by:
        yield "held by", "; ".join(leak.held_by)
    if leak.waits_at:
        yield "its owner", leak.waits_at
    if leak.stalled:
        where = ", called at ".join(leak.stalled.where) or "a line that is not known"
        yield "blocked", f"for {age_text(leak.stalled.seconds)}, at {where}"
    if leak.ended_because:
        yield "ended for", leak.ended_because
