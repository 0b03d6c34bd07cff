"""What `import sockguard` costs: fresh interpreters, against a bare one and one that imports asyncio."""

import subprocess
import sys
from functools import partial

from harness import Contender, at_most_more, compiled, measure, rounds_wanted, save, timing_section

ROUNDS = 41
LIMIT = 40
"""Milliseconds over a bare interpreter."""
STATEMENTS = {"bare interpreter": "pass", "import sockguard": "import sockguard", "import asyncio": "import asyncio"}


def start(statement: str, environment: dict[str, str]) -> None:
    """Runs one statement in a fresh interpreter."""
    subprocess.run([sys.executable, "-c", statement], check=True, env=environment)


def main() -> None:
    """Measures, prints it and writes results/import.json."""
    with compiled() as environment:
        contenders = [Contender(name, partial(start, code, environment)) for name, code in STATEMENTS.items()]
        times = measure(contenders, rounds_wanted(ROUNDS))
    bare, ours, asyncio = STATEMENTS
    section = timing_section(
        "Import time",
        ["Start and end of the interpreter included, with compiled files in place. What counts is the time over bare."],
        times,
        bare,
        [at_most_more(times, ours, bare, LIMIT), at_most_more(times, ours, asyncio, 0)],
    )
    save("import", [section])


if __name__ == "__main__":
    main()
