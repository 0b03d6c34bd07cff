"""The parser, and what an error looks like: one line on stderr and exit status 2."""

import importlib
import sys
from collections.abc import Sequence
from typing import ClassVar

import click

from sockguard import __version__
from sockguard.errors import SockguardError

__all__ = ["cli", "run"]


class LateGroup(click.Group):
    """Imports a command's file when that command is asked for, so that each starts fast."""

    SUMMARIES: ClassVar[dict[str, str]] = {
        "report": "Name the leaked connections of running processes, why, and what to do.",
        "states": "Count connections by TCP state, listener and peer.",
        "reap": "Shut down leaked connections of a process (dry run unless --yes).",
        "doctor": "Check the host: sysctls, descriptor limits, rights.",
        "demo": "Watch a real leaking server being caught and healed, in a few seconds.",
    }

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's interface
        return list(self.SUMMARIES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in self.SUMMARIES:
            return None
        command = getattr(importlib.import_module(f"sockguard.cli.{cmd_name}"), cmd_name)
        assert isinstance(command, click.Command)  # noqa: S101 - what the file of each command defines
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl(list(self.SUMMARIES.items()))


@click.group(cls=LateGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="sockguard")
def cli() -> None:
    """Finds the TCP connections that a server forgot to close (CLOSE_WAIT)."""


def run(arguments: Sequence[str] | None = None) -> None:
    """Runs a command and exits with its status; a user's mistake or a missing right is one line."""
    try:
        status = cli.main(arguments, prog_name="sockguard", standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(2)
    except click.ClickException as error:
        hint = ": give --pid again for each process" if "extra argument" in error.format_message() else ""
        _fail(error.format_message() + hint)
    except (SockguardError, OSError) as error:
        if isinstance(error, BrokenPipeError):
            _leave_quietly()
        _fail(_sentence(error))
    sys.exit(status or 0)


def _fail(message: str) -> None:
    print(f"sockguard: {message}", file=sys.stderr)
    sys.exit(2)


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return str(error)


def _leave_quietly() -> None:
    """Ends without a traceback when the reader of a pipe has left, as `head` does."""
    sys.stdout = None
    sys.exit(0)
