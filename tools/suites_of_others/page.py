"""Writes docs/reference/suites-of-others.md from the results, with the verdicts on what was found."""

from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

__all__ = ["write_page"]

PAGE = Path(__file__).parent.parent.parent / "docs" / "reference" / "suites-of-others.md"
HEAD = """\
<!-- Made by tools/suites_of_others/run.py from its results.json and suites.toml. Do not edit. -->

# The suites of others

What [the pytest plugin](pytest.md) finds in the test suites of other projects, as they were published: each was run
bare, then with `--socket-leaks=error`. No project is blamed here: most of these tests leave something open knowingly or
at no cost, and all of them pass. `make suites-of-others` makes this page again.

## Outcomes

"Changed" counts the tests whose outcome was another one with the plugin, a `SocketLeakError` aside, and was so
again when they were run once more. Seconds are of one run each on a busy machine, hence coarse; a test that leaks
takes up to half a second longer, as it gets the time to close what it has.
"""
FINDINGS = """\
## Findings

One row for each test and place, whatever its parameters; "n" is how many sockets that were. Evidence is of a bare run
of such tests, one for each row, without any code of ours but a look at `/proc/self/fd`: how many sockets a test left
open after its teardown (with those of fixtures of wider scope that began with it), after how long these had ended by
themselves, how many there were after a garbage collection, and how many ResourceWarnings Python gave. Whoever says
what a row means has read the code:

| verdict | meaning |
|---|---|
| real, test | the test, or a helper of it, does not close what it opened |
| real, library | the library has the task to close it and does not |
| late | somebody closes it, but only after the grace of half a second |
| on purpose | it is meant to live as long as the process: a line for the ignore list |
| false alarm | the plugin is wrong |
"""


def write_page(results: dict[str, Any], verdicts: list[dict[str, str]]) -> None:
    """Writes the page."""
    rows = list(_rows(results, verdicts))
    lines = [HEAD, *_outcomes(results), "", FINDINGS, *_counts(rows), ""]
    lines += ["| test | cause | opened at | n | evidence, bare | verdict |", "|---|---|---|---:|---|---|"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    PAGE.write_text("\n".join([*lines, "", *_reasons(results, verdicts)]) + "\n", encoding="utf-8")
    print(f"wrote {PAGE.name} from {len(results)} results")


def _outcomes(results: dict[str, Any]) -> Iterator[str]:
    yield "| suite | outcomes, bare | changed | tests charged | seconds, bare | with the plugin |"
    yield "|---|---|---:|---:|---:|---:|"
    for _, result in sorted(results.items()):
        if "skipped" in result:
            yield f"| {result['sdist']} | skipped: {result['skipped']} | | | | |"
            continue
        counts = ", ".join(f"{n:,} {outcome}" for outcome, n in sorted(result["outcomes"].items()))
        bare, judging = result["seconds"] or ("not known", "not known")
        yield f"| {result['sdist']} | {counts} | {len(result['changed'])} | {result['errors']} | {bare} | {judging} |"


def _rows(results: dict[str, Any], verdicts: list[dict[str, str]]) -> Iterator[list[str]]:
    for name, result in sorted(results.items()):
        for finding in result.get("findings", ()):
            test, verdict = finding["test"].partition("[")[0], _verdict_on(name, finding, verdicts)
            said = f"{verdict['verdict']} ({verdicts.index(verdict) + 1})" if verdict else "not judged"
            cause = f"{finding['cause']}, {finding['protocol']} {finding['state']}"
            site = f"`{finding['site']}`"
            yield [f"{name}: `{test}`", cause, site, str(finding["count"]), _evidence(finding["evidence"]), said]


def _verdict_on(name: str, finding: dict[str, Any], verdicts: list[dict[str, str]]) -> dict[str, str] | None:
    def fits(verdict: dict[str, str]) -> bool:
        is_there = verdict["suite"] == name and fnmatchcase(finding["site"], verdict.get("site", "*"))
        return is_there and fnmatchcase(finding["test"], verdict.get("test", "*"))

    return next(filter(fits, verdicts), None)


def _evidence(seen: dict[str, Any] | None) -> str:
    if seen is None:
        return "not run"
    parts = [f"{seen['open']} open"]
    if seen["ended_after"] is not None:
        parts.append(f"ended after {seen['ended_after']} s")
    elif seen["open"]:
        parts.append(f"{seen['after_gc']} after gc")
    return ", ".join([*parts, *([f"{seen['warnings']} warned of"] if seen["warnings"] else [])])


def _counts(rows: list[list[str]]) -> Iterator[str]:
    kinds = [row[-1].partition(" (")[0] for row in rows]
    yield "In all: " + ", ".join(f"{kinds.count(kind)} {kind}" for kind in sorted(set(kinds))) + "."


def _reasons(results: dict[str, Any], verdicts: list[dict[str, str]]) -> Iterator[str]:
    """Explains the verdicts that are used, by their numbers."""
    used = [_verdict_on(name, f, verdicts) for name, result in results.items() for f in result.get("findings", ())]
    for number, verdict in enumerate(verdicts, 1):
        if verdict in used:
            yield f"({number}) {verdict['suite']}, {verdict['verdict']}: {verdict['why']}\n"
