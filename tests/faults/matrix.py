"""The fault matrix: every fault on every kind of server, with and without the guard, on real sockets.

    make matrix                                        all, and docs/reference/fault-matrix.md anew
    make matrix ARGS="--only fin-ignored/uvloop"       some: ROW, /COLUMN or ROW/COLUMN, shown in full
    make matrix ARGS="--only /gevent --bare"           without the guard only

Each cell is a process of its own in a network namespace of its own, where that is allowed;
else the loopback interface is used, and what needs a namespace is left out.
"""

import argparse
import concurrent.futures
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from faults import matrix_page
from faults.matrix_columns import COLUMNS
from faults.matrix_judge import Seen, Verdict, judge
from faults.matrix_rows import ROWS

__all__ = ["Result", "run_all"]

TOP = Path(__file__).parent.parent.parent
PAGE = TOP / "docs" / "reference" / "fault-matrix.md"
AT_ONCE_IF_DOUBTFUL = 3
LONGEST = 90
"""Seconds after which a cell is ended that hangs."""


class Result(NamedTuple):
    """One cell that was run."""

    row: str
    column: str
    kind: str
    verdict: Verdict
    seen: Seen


def namespace() -> list[str]:
    """Gives the words that put a command into a network namespace of its own, if that is allowed here."""
    for options in ("-n", "-rn"):
        words = ["unshare", options, "sh", "-c", 'ip link set lo up && exec "$0" "$@"']
        if (
            shutil.which("unshare")
            and not subprocess.run([*words, "true"], check=False, capture_output=True).returncode
        ):
            return words
    return []


def fetch_nft() -> bool:
    """Tells whether packets can be dropped here; as root on Debian, nftables is installed when it is missing."""
    if not shutil.which("nft") and os.geteuid() == 0 and shutil.which("apt-get"):
        subprocess.run(["apt-get", "install", "-qq", "-y", "nftables"], check=False, capture_output=True)
    return bool(shutil.which("nft"))


def skipped(row: str, column: str, *, can_drop: bool) -> str:
    """Tells why a cell is not run, if so."""
    if column in ROWS[row].not_in:
        return f"n/a: {ROWS[row].why_not}"
    if missing := COLUMNS[column].missing:
        return f"not run: no {' and '.join(missing)} here"
    return "not run: no namespace or no nft here" if ROWS[row].needs_nft and not can_drop else ""


def run_one(prefix: list[str], row: str, column: str, kind: str) -> Result:
    """Runs one cell in a process of its own."""
    words = [*prefix, sys.executable, "-P", "-m", "faults.matrix_cell", row, column, kind]
    environment = os.environ | {"PYTHONPATH": str(TOP / "tests")}
    with subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            out, err = process.communicate(timeout=LONGEST)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
    try:
        seen = Seen(**json.loads(out))
    except ValueError:
        seen = Seen(not_played=f"it ended without a result: {err.strip()[-300:]}")
    return Result(row, column, kind, judge(ROWS[row], COLUMNS[column], seen), seen)


def run_all(
    cells: list[tuple[str, str]], kinds: list[str], at_once: int, tell: Callable[[Result], object] = lambda _: None
) -> Iterator[Result]:
    """Runs cells, and tells of each when it is done; skipped ones are results, too.

    Those that were only late, or not played at all, are run again in the end, when the machine is less busy.
    """
    prefix = namespace()
    can_drop = bool(prefix) and (not any(ROWS[row].needs_nft for row, _ in cells) or fetch_nft())
    runs, doubtful = [], []
    for row, column in cells:
        why = skipped(row, column, can_drop=can_drop)
        for kind in kinds_of(column, kinds):
            if why:
                yield Result(row, column, kind, Verdict(why), Seen())
            else:
                runs.append((row, column, kind))
    for result in run_several(prefix, runs, at_once):
        if result.verdict.is_doubtful and result.kind == "guarded":
            doubtful.append(result[:3])
        else:
            tell(result)
            yield result
    for result in run_several(prefix, doubtful, AT_ONCE_IF_DOUBTFUL):
        tell(result)
        yield result


def kinds_of(column: str, kinds: list[str]) -> list[str]:
    """Gives those of "guarded" and "bare" of which a column has cells of its own."""
    return [kind for kind in kinds if kind == "guarded" or not COLUMNS[column].is_twin]


def run_several(prefix: list[str], runs: list[tuple[str, str, str]], at_once: int) -> Iterator[Result]:
    """Runs cells in processes side by side; they mostly wait."""
    with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
        for done in concurrent.futures.as_completed([pool.submit(run_one, prefix, *run) for run in runs]):
            yield done.result()


def chosen(only: list[str]) -> list[tuple[str, str]]:
    """Gives the cells that were asked for."""
    wanted = [word.partition("/")[::2] for word in only or [""]]
    unknown = {row for row, _ in wanted} - ROWS.keys() - {""} | {column for _, column in wanted} - COLUMNS.keys() - {""}
    if unknown:
        sys.exit(
            f"matrix: no such row or column: {', '.join(unknown)}\nrows: {' '.join(ROWS)}\ncolumns: {' '.join(COLUMNS)}"
        )
    return [
        (row, column)
        for row in ROWS
        for column in COLUMNS
        if any(a in {"", row} and b in {"", column} for a, b in wanted)
    ]


def tell(result: Result) -> None:
    """Prints a line for a cell."""
    mark = ("RED " if result.kind == "guarded" else "bad ") if result.verdict.is_red else "ok  "
    why = f"  <- {'; '.join(result.verdict.wrong)}" if result.verdict.wrong else ""
    sys.stdout.write(
        f"{mark}{result.kind:8}{result.row}/{result.column}: {result.verdict.text} ({result.seen.took:g} s){why}\n"
    )
    sys.stdout.flush()


def tell_all(result: Result) -> None:
    """Prints all that was seen in a cell."""
    tell(result)
    shown: dict[str, Any] = result.seen.as_json()
    log = shown.pop("log")
    sys.stdout.write(json.dumps(shown, indent=1) + "\n" + "".join(f"    | {line}\n" for line in log.splitlines()))


def main() -> int:
    """Runs what was asked for; exit status 1 if a cell is red."""
    parser = argparse.ArgumentParser(prog="faults.matrix", usage="make matrix ARGS=...")
    parser.add_argument("--only", action="append", default=[], metavar="ROW/COLUMN")
    parser.add_argument("--bare", action="store_true", help="without the guard only")
    parser.add_argument("--guarded", action="store_true", help="with the guard only")
    parser.add_argument("--jobs", type=int, default=8)
    parser.add_argument("--details", action="store_true", help="show all that was seen")
    parser.add_argument("--json", type=Path, help="write the results to this file")
    parser.add_argument("--page", action="store_true", help="write docs/reference/fault-matrix.md")
    options = parser.parse_args()
    kinds = [kind for kind in ("guarded", "bare") if getattr(options, kind)] or ["guarded", "bare"]
    begun = time.monotonic()
    cells = chosen(options.only)
    results = list(run_all(cells, kinds, options.jobs, tell_all if options.details else tell))
    red = [result for result in results if result.verdict.is_red and result.kind == "guarded"]
    sys.stdout.write(f"{len(results)} runs in {time.monotonic() - begun:.0f} s, {len(red)} red\n")
    if options.json:
        plain = [
            {**result._asdict(), "verdict": result.verdict._asdict(), "seen": result.seen.as_json()}
            for result in results
        ]
        options.json.write_text(json.dumps(plain, indent=1) + "\n", encoding="utf-8")
    if options.page:
        PAGE.write_text(matrix_page.render(results), encoding="utf-8")
    return 1 if red else 0


if __name__ == "__main__":
    sys.exit(main())
