"""`sockguard run`: guards a program, and runs it as Python would.

This command reads its words itself and loads nothing that it can do without, as whatever it
loads is there before the program is: no click, no argparse, and logging only for --log.
"""

import os
import sys
from typing import NamedTuple

from sockguard._core.policy import Keepalive, Policy
from sockguard._core.policy_fields import nearest
from sockguard.cli.run_guard import LEVELS, Wish, guard
from sockguard.cli.run_program import Program, refuse_missing_script, start
from sockguard.errors import SockguardError, UsageError

__all__ = ["Request", "help_text", "parse", "run"]

USAGE = """\
Usage: sockguard run [OPTIONS] script.py [ARGUMENTS]...
       sockguard run [OPTIONS] -m module [ARGUMENTS]...
       sockguard run [OPTIONS] -c code [ARGUMENTS]...

  Guards a program, and runs it as Python would. The program can also be a folder or an
  archive with a __main__.py, or - for standard input. Exit status: that of the program,
  or 2 if an option makes no sense.

Options:"""
OURS = {
    "children": ("", "Also guard the Python processes that the program starts."),
    "config": (" FILE", "Take the policy from this TOML file; variables (SOCKGUARD_FIN_TIMEOUT=2) and options win."),
    "log": (" [LEVEL]", "Write what the guard reports to stderr. Without a level, from WARNING on."),
    "help": ("", "Show this and exit."),
}
"""The options besides the fields of the policy: what each takes, and what it is for."""
FORMS = "script.py, -m module, -c code, or - for standard input"
TAKES = {"Keepalive": "IDLE,INTERVAL,COUNT", "Heartbeat": "off"}
"""Of the fields that have fields of their own: what can be given as text."""
WIDTH, INDENT = 100, " " * 10
READER_LEFT = 141
"""128 and the number of SIGPIPE, as for the other commands."""


class Request(NamedTuple):
    """What the command line asks for."""

    texts: dict[str, str]
    """Fields of the policy."""
    options: dict[str, str]
    """Those of OURS."""
    rest: list[str]
    """The program and its arguments."""


def run(words: list[str]) -> None:
    """Installs the guard, then runs the program that these words name; from there on all is the program's."""
    try:
        request = parse(words)
        if "help" in request.options:
            sys.exit(show_help())
        program = program_of(request.rest)
        wish = wish_of(request)
        refuse_missing_script(program)
        guard(wish)
    except (SockguardError, OSError) as error:
        print(f"sockguard: {error}", file=sys.stderr)
        sys.exit(2)
    start(program)


def parse(words: list[str]) -> Request:
    """Takes the options off a command line; all from the program on stays as it is.

    Raises:
        UsageError: An option is not known, or lacks its value.
    """
    request = Request({}, {}, words.copy())
    while request.rest and _is_option(request.rest[0]):
        word = request.rest.pop(0)
        if word == "--":
            break
        _take("--help" if word == "-h" else word, request)
    return request


def _is_option(word: str) -> bool:
    return word.startswith("-") and word != "-" and word[:2] not in {"-m", "-c"}


def _take(word: str, request: Request) -> None:
    option, equals, value = word.partition("=")
    name = option.removeprefix("--")
    field = name.replace("-", "_")
    if option == name or not (name in OURS or field in Policy.kinds()):
        raise UsageError(_unknown(option))
    if name not in OURS:
        request.texts[field] = value if equals else _next(option, request.rest)
    elif name == "config":
        request.options[name] = value if equals else _next(option, request.rest)
    elif name == "log":
        is_level = not equals and request.rest[:1] and request.rest[0].upper() in LEVELS
        request.options[name] = request.rest.pop(0) if is_level else value or "WARNING"
    elif equals:
        msg = f"{option}={value}: {option} takes no value"
        raise UsageError(msg)
    else:
        request.options[name] = ""


def _next(option: str, rest: list[str]) -> str:
    if not rest or rest[0].startswith("--"):
        msg = f"{option} needs a value: {option}=VALUE"
        raise UsageError(msg)
    return rest.pop(0)


def _unknown(option: str) -> str:
    if not option.startswith("--"):
        return f"no such option: {option}; Python's own go before: python {option} -m sockguard run ..."
    near = nearest(option.removeprefix("--"), [*Policy.kinds(), *OURS])
    hint = f"the nearest is --{near.replace('_', '-')}" if near else "sockguard run --help has all"
    return f"no such option: {option}; {hint}"


def program_of(rest: list[str]) -> Program:
    """Tells which program the rest of a command line names.

    Raises:
        UsageError: None.
    """
    if not rest:
        msg = f"which program? Name it after the options: {FORMS}"
        raise UsageError(msg)
    word, *arguments = rest
    option = word[:2] if word[:2] in {"-m", "-c"} else ""
    name = word.removeprefix(option)
    if option and not name:
        if not arguments:
            msg = f"{option} needs a value"
            raise UsageError(msg)
        name = arguments.pop(0)  # may be empty, as Python has it
    return Program(option, name, arguments)


def wish_of(request: Request) -> Wish:
    """Tells how the program is to be guarded.

    Raises:
        UsageError: There is no such level.
    """
    level = request.options.get("log", "").upper()
    if level and level not in LEVELS:
        msg = f"--log={level} makes no sense: give one of {', '.join(LEVELS)}"
        raise UsageError(msg)
    return Wish(request.texts, request.options.get("config", ""), level, "children" in request.options)


def show_help() -> int:
    """Prints the help; gives the exit status."""
    try:
        os.write(1, help_text().encode())  # past sys.stdout, which would complain once more at exit
    except BrokenPipeError:
        return READER_LEFT
    return 0


def help_text() -> str:
    """Explains the command and all fields of the policy, from the words that stand beside these."""
    entries = [f"  --{name}{takes}\n{_fold(meaning)}" for name, (takes, meaning) in OURS.items()]
    entries += ["", "The policy ('off' turns a setting off, where that makes sense):"]
    for field in Policy.describe():
        takes = TAKES.get(field.unit, field.unit.replace(" or ", "|") if " or " in field.unit else field.unit.upper())
        default = _fold(f"{field.meaning} (default: {_shown(field.default)})")
        entries.append(f"  --{field.name.replace('_', '-')} {takes}\n{default}")
    return "\n".join([USAGE, *entries, ""])


def _shown(default: object) -> str:
    if isinstance(default, Keepalive):
        return f"{default.idle},{default.interval},{default.count}"
    return "off" if default is None else f"{default:g}" if isinstance(default, float) else str(default)


def _fold(text: str) -> str:
    import textwrap  # noqa: PLC0415

    return textwrap.fill(text.replace("`", ""), WIDTH, initial_indent=INDENT, subsequent_indent=INDENT)
