"""What does the guard cost a web server? uvicorn and gunicorn, guarded against bare, under wrk."""

import contextlib
import re
import shutil
import statistics
import subprocess
from collections.abc import Sequence

from harness import Section
from ratios import Options, Sample, finish, options, pairs, ratio_of, take_turns
from sides import BARE, GUARDED, SERVERS, Server, guarded_unless, starting

UVICORN = ("uvicorn", "--app-dir", str(SERVERS), "--port", "PORT", "--no-access-log", "--log-level", "warning")
GUNICORN = ("gunicorn", "--chdir", str(SERVERS), "--bind", "127.0.0.1:PORT", "--log-level", "warning")
KINDS = {
    "uvicorn, asyncio and h11": (*UVICORN, "--loop", "asyncio", "--http", "h11", "hello:asgi"),
    "uvicorn, uvloop and httptools": (*UVICORN, "--loop", "uvloop", "--http", "httptools", "hello:asgi"),
    "gunicorn -k gthread": (*GUNICORN, "-k", "gthread", "--threads", "8", "hello:wsgi"),
}
LIMIT = 0.98
TURN = 1
"""Seconds, as wrk counts in whole ones."""
N_GENERATIONS = 12
N_CONNECTIONS = 32
RATE = re.compile(r"^Requests/sec: +([\d.]+)$", re.MULTILINE)
TROUBLE = re.compile(r"^ +(Socket errors|Non-2xx).*", re.MULTILINE)

Outcome = dict[str, list[dict[str, list[Sample]]]]
"""Kind -> what the turns of each generation have shown."""


def measure(asked: Options) -> Outcome:
    """Measures all kinds, generation by generation."""
    outcome: Outcome = {kind: [] for kind in KINDS}
    for number in range(asked.pick(N_GENERATIONS, 2)):
        for kind, words in KINDS.items():
            outcome[kind].append(one_generation(words, number, asked))
    return outcome


def one_generation(words: Sequence[str], number: int, asked: Options) -> dict[str, list[Sample]]:
    """Starts a server of each side, and lets them take turns."""
    sides = [BARE, guarded_unless(against_itself=asked.against_itself)]
    with contextlib.ExitStack() as stack:
        started = {side: stack.enter_context(starting(side, *words)) for side in (sides if number % 2 else sides[::-1])}
        servers = {side.name: started[side] for side in sides}
        return take_turns(list(servers), lambda name: turn(servers[name]), number)


def turn(server: Server) -> Sample:
    """Lets wrk ask for a second."""
    cpu_before = server.cpu_seconds()
    command = ["wrk", "--threads", "1", "--connections", str(N_CONNECTIONS), "--duration", str(TURN)]
    said = subprocess.run(
        [*command, f"http://127.0.0.1:{server.port}/"], check=True, capture_output=True, text=True
    ).stdout
    rate, trouble = RATE.search(said), TROUBLE.search(said)
    if not rate or trouble:
        raise RuntimeError(said)
    per_second = float(rate[1])
    return Sample(per_second, (server.cpu_seconds() - cpu_before) / (per_second * TURN) * 1e6)


def section_of(outcome: Outcome) -> Section:
    """Makes the table."""
    rows: list[list[str | float]] = []
    bars = []
    for kind, generations in outcome.items():
        bare = [sample for samples in generations for sample in samples[BARE.name]]
        ratio = ratio_of([pairs(samples, GUARDED, BARE.name) for samples in generations])
        by_cpu = ratio_of([pairs(samples, GUARDED, BARE.name, "per_cpu_second") for samples in generations])
        medians = (statistics.median(s.per_second for s in bare), statistics.median(s.cpu_us for s in bare))
        rows.append([kind, *medians, *ratio, by_cpu.median])
        bars.append(ratio.bar(f"{kind}: guarded at least {LIMIT:g} of bare", LIMIT))
    n_generations = len(next(iter(outcome.values())))
    notes = [
        f"Medians of {n_generations} generations of servers, in each two turns of {TURN} s per side.",
        f"`wrk -t1 -c{N_CONNECTIONS}`, connections kept alive, six bytes of body, no access log.",
        "`guarded` is `python -m sockguard run --idle-timeout 300 -m uvicorn ...`. gunicorn forks one worker.",
        "By CPU time: requests per second of CPU time of the server, its worker and the guard's threads.",
    ]
    columns = ["server", "bare, requests/s", "bare, us of CPU", "guarded / bare", "95 %: from", "to", "by CPU time"]
    return Section("Requests", notes, columns, rows, bars)


def main() -> None:
    """Measures all, prints it and writes results/guard_http.json."""
    asked = options()
    if not shutil.which("wrk"):
        print("SKIPPED: wrk is not here (apt-get install wrk)")
        return
    finish("guard_http", [section_of(measure(asked))], asked, ["uvicorn", "uvloop", "httptools", "gunicorn"])


if __name__ == "__main__":
    main()
