"""`sockguard doctor`: is this host set up so that leaks are seen, survived and ended?"""

import json
import os
from collections.abc import Iterator

import click

from sockguard._core.checkup import SYSCTLS, Finding, Verdict, judge_door, judge_limit, judge_sysctl
from sockguard._kernel.linux import require_linux
from sockguard._kernel.probe import probe_doors
from sockguard._kernel.proc_pid import read_descriptor_limits, read_process
from sockguard._kernel.sysctl import read_sysctl
from sockguard.cli.options import json_option, pid_option

__all__ = ["doctor"]

COMMAND_WIDTH = 24
STYLES = {Verdict.OK: "green", Verdict.NOTE: "yellow", Verdict.BAD: "bold red"}


@click.command()
@pid_option("Judge the descriptor limit of this process, not the doctor's own; may be given again.")
@json_option
def doctor(pids: tuple[int, ...], as_json: bool) -> int:
    """Checks sysctls, descriptor limits, and which doors of the kernel are open.

    Each finding has its value, a verdict, the reason and, if something is to be done, the
    remedy. Exit status: 0 nothing bad, 1 something bad, 2 could not look.
    """
    require_linux("the doctor")
    findings = [*_limits(pids), *_sysctls(), *map(judge_door, probe_doors())]
    if as_json:
        print(json.dumps({"schema": 1, "findings": [finding._asdict() for finding in findings]}))
    else:
        _print_findings(findings)
    return int(any(finding.verdict is Verdict.BAD for finding in findings))


def _limits(pids: tuple[int, ...]) -> Iterator[Finding]:
    for pid in pids or [os.getpid()]:
        process = read_process(pid)
        name = (
            f"descriptors of pid {pid} {process.command[:COMMAND_WIDTH]}" if pids else "RLIMIT_NOFILE here: descriptors"
        )
        yield judge_limit(name, process.fd_used, *read_descriptor_limits(pid))


def _sysctls() -> Iterator[Finding]:
    for name in SYSCTLS:
        value = read_sysctl(name)
        if value is not None:
            yield judge_sysctl(name, value)


def _print_findings(findings: list[Finding]) -> None:
    from rich.text import Text  # noqa: PLC0415 - rich takes 60 ms to import

    from sockguard.cli.render import Column, make_console, make_table  # noqa: PLC0415

    rows = [
        (
            Text(finding.verdict.value, style=STYLES[finding.verdict]),
            f"{finding.name} = {finding.value}",
            _advice(finding),
        )
        for finding in findings
    ]
    columns = [Column(""), Column("WHAT", may_fold=True), Column("WHY, AND WHAT TO DO", may_fold=True)]
    make_console().print(make_table(columns, rows))


def _advice(finding: Finding) -> str:
    return f"{finding.reason} {finding.remedy}".rstrip()
