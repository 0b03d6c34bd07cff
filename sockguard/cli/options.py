"""Options that several commands share, and how their values are checked."""

import math
from collections.abc import Callable
from typing import Any, TypeVar

import click

from sockguard._core.facts import TcpState

__all__ = [
    "chosen_pids",
    "json_option",
    "parse_states",
    "pid_option",
    "process_number",
    "process_options",
    "span_of_time",
]

Command = TypeVar("Command", bound=Callable[..., Any])


def process_number(value: str) -> int:
    """Takes a pid as ps and pgrep print it.

    Raises:
        click.BadParameter: It is something else, such as a whole list in quotes.
    """
    if value.isascii() and value.isdecimal() and int(value):
        return int(value)
    msg = f"{value!r} is no process number; give one as ps prints it, and --pid again for each more"
    raise click.BadParameter(msg)


def span_of_time(value: str) -> float:
    """Takes a number of seconds, 0 or more.

    Raises:
        click.BadParameter: It is something else, or endless.
    """
    try:
        seconds = float(value)
    except ValueError:
        seconds = math.nan
    if 0 <= seconds < math.inf:
        return seconds
    msg = f"{value!r} is no span of time; give seconds, 0 or more"
    raise click.BadParameter(msg)


json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object instead of tables.")


def pid_option(help_text: str, *, required: bool = False) -> Callable[[Command], Command]:
    """Makes the option --pid, which arrives as the argument `pids`."""
    return click.option(
        "--pid", "-p", "pids", type=process_number, multiple=True, metavar="PID", required=required, help=help_text
    )


def process_options(command: Command) -> Command:
    """Adds --pid and --all to a command."""
    command = click.option("--all", "everything", is_flag=True, help="Every process (the default).")(command)
    return pid_option("Only this process; may be given again.")(command)


def chosen_pids(pids: tuple[int, ...], *, everything: bool) -> list[int] | None:
    """Makes one choice of --pid and --all; None stands for every process.

    Raises:
        click.UsageError: Both were given.
    """
    if pids and everything:
        msg = "--pid and --all exclude each other: leave one of them away"
        raise click.UsageError(msg)
    return sorted(set(pids)) or None


def parse_states(context: click.Context, parameter: click.Parameter, names: tuple[str, ...]) -> frozenset[int]:  # noqa: ARG001 - click's interface
    """Turns the names of TCP states, in any spelling that ss or netstat use, into numbers.

    Raises:
        click.BadParameter: There is no such state; the message lists all.
    """
    return frozenset(_state_named(name) for name in names)


_ALIASES = {"ESTAB": "ESTABLISHED", "LISTENING": "LISTEN", "SYN_RCVD": "SYN_RECV", "TIMEWAIT": "TIME_WAIT"}


def _state_named(name: str) -> int:
    wanted = name.upper().replace("-", "_")
    wanted = _ALIASES.get(wanted, wanted)
    for state in TcpState:
        if wanted in (state.name, state.name.replace("_", "")):
            return state.value
    known = ", ".join(state.name for state in TcpState)
    msg = f"{name!r} is no TCP state; there are {known}"
    raise click.BadParameter(msg)
