"""Runs the corpus under the guard: nothing may leak, no healthy program may notice.

Usage: corpus_guarded.py CORPUS

CORPUS is the folder with run_all.sh, whose environments must have this sockguard in them.
Leaking cases run with a fin_timeout of 2 s, healthy ones with 5 s, the streaming one also with 1 s.
Exit status 1 if anything is not as it should be.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

LINE = re.compile(r"^(PASS|FAIL) (\S+) +LEAKS (\S+) .*?(?:DEADFD (\d+))?\s+\S+s$")
NEVER_ACCEPTED = {"werkzeug-tls-accept": 10, "sanic-blocked-loop": 6}
"""What is left where an acceptor is stuck: only accepting and closing those connections would end them."""
LOOP_CLOSES = (
    "uvicorn-uvloop-eof",
    "pproxy-backward",
    "hypercorn-sse",
    "aiohttp-unread-response",
    "asyncio-callback-raises",
)
"""Cases with an event loop that is not blocked: there the descriptors must be gone, too."""


def main() -> int:
    """Judges every case."""
    corpus = Path(sys.argv[1])
    slugs = [
        line.split("\t")[0] for line in (corpus / "cases.tsv").read_text().splitlines() if line[:1] not in ("", "#")
    ]
    healthy = [slug for slug in slugs if slug.startswith("healthy-")]
    leaking = [slug for slug in slugs if slug not in healthy]
    bad = [words for words in run(corpus, leaking, 2) if not is_healed(*words)]
    bad += [words for words in run(corpus, healthy, 5) if words[0] != "PASS"]
    bad += [words for words in run(corpus, ["healthy-halfclose-stream"], 1) if words[0] != "PASS"]
    for words in bad:
        print("WRONG", *words)
    print(f"GUARDED CORPUS: {len(slugs)} cases, {len(bad)} wrong")
    return int(bool(bad))


def run(corpus: Path, slugs: list[str], fin_timeout: int) -> list[tuple[str, str, str, str]]:
    """Runs cases under the guard; (PASS or FAIL, slug, leaks, dead descriptors) of each."""
    environment = os.environ | {"CORPUS_SETTLE": "5", "CORPUS_PREFIX": f"-m sockguard run --fin-timeout {fin_timeout}"}
    command = [str(corpus / "run_all.sh"), *slugs]
    printed = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False).stdout
    lines = [line for line in printed.splitlines() if line.startswith(("PASS", "FAIL"))]
    print("\n".join(lines), flush=True)
    found = [match.groups("0") for line in lines if (match := LINE.match(line))]
    missing = set(slugs) - {slug for _, slug, *_ in found}
    return [(word, slug, leaks, dead) for word, slug, leaks, dead in found] + [("LOST", s, "?", "?") for s in missing]


def is_healed(_: str, slug: str, leaks: str, dead: str) -> bool:
    """Tells whether a leaking program was healed as far as that can be done from inside."""
    return leaks == str(NEVER_ACCEPTED.get(slug, 0)) and (dead == "0" or slug not in LOOP_CLOSES)


if __name__ == "__main__":
    sys.exit(main())
