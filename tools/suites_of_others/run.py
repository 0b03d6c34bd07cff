"""Runs the suites of other projects, bare and with the plugin, and tells what changed and which leaks it found.

    run.py [--only-page] [SUITE...]     # all of suites.toml if none is given

What it needs (sdists, an environment for each suite) is kept in .venv-suites. Results are written to results.json, and
the page of the manual is made from that file. What cannot be had is skipped, aloud. Exit status 1: an outcome
changed other than by a SocketLeakError, and did so again when it was run once more.
"""

import json
import sys
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

from environments import Suite, Unavailable, prepare
from page import write_page
from runs import Run, run_suite

__all__: list[str] = []

HERE = Path(__file__).parent
RESULTS = HERE / "results.json"
WAIT = 12.0
"""Seconds to see whether what is open ends by itself: the longest that a server here sleeps is ten."""


def main() -> int:
    """Runs the suites that are named, and writes the page."""
    table = tomllib.loads((HERE / "suites.toml").read_text(encoding="utf-8"))
    names = [word for word in sys.argv[1:] if not word.startswith("-")] or list(table["suites"])
    for name in names if "--only-page" not in sys.argv else ():
        result = judged(name, table["suites"][name])
        RESULTS.write_text(json.dumps(kept() | {name: result}, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    write_page(kept(), table["verdicts"])
    return int(any(kept().get(name, {}).get("changed") for name in names))


def kept() -> dict[str, Any]:
    """Reads the results of all suites, as they are just now."""
    found: dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    return found


def judged(name: str, described: dict[str, Any]) -> dict[str, Any]:
    """Runs one suite both ways, and what was found there once more, bare; says so if it cannot be had."""
    try:
        suite = prepare(name, described)
    except Unavailable as error:
        print(f"== {name}\nSKIPPED: {error}", flush=True)
        return {"sdist": described["sdist"], "skipped": str(error)}
    print(f"== {name}", flush=True)
    bare, judging = run_suite(suite), run_suite(suite, is_judging=True)
    if not bare.outcomes:
        print(f"SKIPPED: its tests cannot be run here:\n{bare.printed}", flush=True)
        return {"sdist": suite.sdist, "skipped": "its tests cannot be run here"}
    changed = changed_for_good(suite, bare, judging)
    found = findings(judging.leaks)
    seen = run_suite(suite, [finding["test"] for finding in found], wait=WAIT).evidence if found else {}
    for finding in found:
        finding["evidence"] = seen.get(finding["test"])
    result = {
        "sdist": suite.sdist,
        "outcomes": dict(Counter(bare.outcomes.values())),
        "seconds": [round(bare.seconds), round(judging.seconds)],
        "errors": judging.n_leak_errors,
        "changed": changed,
        "findings": found,
    }
    print(json.dumps(result, indent=1), flush=True)
    return result


def changed_for_good(suite: Suite, bare: Run, judging: Run) -> list[str]:
    """Lists the tests whose outcome differs, and does so again when these are run once more, both ways."""
    first = differing(bare, judging)
    if not first:
        return []
    return sorted(set(first) & set(differing(run_suite(suite, first), run_suite(suite, first, is_judging=True))))


def differing(bare: Run, judging: Run) -> list[str]:
    """Lists the tests with another outcome, leaks aside."""
    tests = bare.outcomes.keys() | judging.outcomes.keys()
    return sorted(test for test in tests if bare.outcomes.get(test) != judging.outcomes.get(test))


def findings(leaks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Puts together what is the same leak in one test, whatever its parameters."""
    grouped: dict[tuple[str, ...], dict[str, Any]] = {}
    for leak in leaks:
        made_at = (leak["created_at"] or ["not seen: in C, or never accepted"])[0]
        site = made_at if leak["source_at"] in ("", made_at) else f"{made_at}, from {leak['source_at']}"
        key = (leak["test"].partition("[")[0], leak["cause"], leak["protocol"], site)
        row = {"test": leak["test"], "cause": leak["cause"], "protocol": leak["protocol"], "state": leak["state"]}
        first = {"site": site, "held_by": leak["held_by"], "count": 0}
        grouped.setdefault(key, row | first)["count"] += 1
    return list(grouped.values())


if __name__ == "__main__":
    sys.exit(main())
