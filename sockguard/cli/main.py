"""The parser, and what an error looks like: one line on stderr and exit status 2."""

import importlib
import io
import os
import sys
import traceback
from collections.abc import Sequence
from typing import ClassVar, NoReturn

import click

from sockguard import __version__
from sockguard.errors import SockguardError

__all__ = ["cli", "run"]

INTERRUPTED, READER_LEFT = 130, 141
"""128 and the number of SIGINT or SIGPIPE, as a shell says it of a program that these ended."""


class LateGroup(click.Group):
    """Imports a command's file when that command is asked for, so that each starts fast."""

    SUMMARIES: ClassVar[dict[str, str]] = {
        "run": "Guard a program, and run it as Python would.",
        "report": "Name the leaked connections of running processes, why, and what to do.",
        "states": "Count connections by TCP state, listener and peer.",
        "reap": "Shut down leaked connections of a process (dry run unless --yes).",
        "doctor": "Check the host: sysctls, descriptor limits, rights.",
        "demo": "Watch a real leaking server being caught and healed, in a few seconds.",
    }

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's interface
        return list(self.SUMMARIES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in self.SUMMARIES or cmd_name == "run":  # __main__ sees to that one, without click
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
    """Finds, ends and prevents TCP connections that a server forgot to close (CLOSE_WAIT)."""


def run(arguments: Sequence[str] | None = None) -> None:
    """Runs a command and exits with its status; a user's mistake or a missing right is one line."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    _make_streams_safe()
    try:
        # Not by cli.main(), which ends with status 1, our word for leaks, when a pipe's reader has left.
        with cli.make_context("sockguard", words) as context:
            status = cli.invoke(context)
        sys.stdout.flush()
    except click.exceptions.Exit as end:
        status = end.exit_code
    except (click.exceptions.Abort, KeyboardInterrupt):
        status = INTERRUPTED
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        status = 2
    except click.ClickException as error:
        hint = ": give --pid again for each process" if "extra argument" in error.format_message() else ""
        _fail(error.format_message() + hint)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the last flush complains
        status = READER_LEFT
    except (SockguardError, OSError) as error:
        _fail(_sentence(error))
    except Exception:  # noqa: BLE001 - a bug of ours must not end with 1, our word for leaks
        traceback.print_exc()
        status = 2
    sys.exit(status)


def _make_streams_safe() -> None:
    """Sees to it that text of other people's processes can be printed, whatever the terminal knows."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    if sys.stdout is None:  # closed by who started us
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - until the end


def _fail(message: str) -> NoReturn:
    print(f"sockguard: {message}", file=sys.stderr)
    sys.exit(2)


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return str(error)
