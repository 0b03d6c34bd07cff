"""How is a process guarded that runs under `sockguard run`: the program itself, and with --children its children?

A child is a Python of its own: started by subprocess, or by multiprocessing with spawn or
forkserver. (A forked one is a copy of a guarded process, and needs nothing.) All that it
gets from its parent is the environment, so there go the policy, in the variables that a
user could set too, and a folder for PYTHONPATH. Python imports `sitecustomize` from there
at start, which calls `guard_child` and then steps aside: see children/sitecustomize.py.
"""

import os
import sys
from typing import NamedTuple

from sockguard import install, uninstall
from sockguard._core.policy import Layer, Policy, environment_layer, text_layer, variable_of
from sockguard.errors import UsageError

__all__ = ["LEVELS", "Wish", "guard", "guard_child"]

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "children")
FOR_CHILDREN, CONFIG, LOG = "SOCKGUARD_CHILDREN", "SOCKGUARD_RUN_CONFIG", "SOCKGUARD_RUN_LOG"
"""Variables that tell a child what the options --children, --config and --log told its parent."""


class Wish(NamedTuple):
    """How a program is to be guarded."""

    texts: dict[str, str]
    """Fields of the policy, as options have them."""
    config: str
    """The path of a policy file, or nothing."""
    level: str
    """From which level on events are written to stderr, or nothing."""
    is_for_children: bool


def guard(wish: Wish) -> None:
    """Guards this process, and prepares the environment for its children.

    Raises:
        UsageError: The policy makes no sense, or children cannot be guarded.
        OSError: The file of the policy cannot be read.
    """
    policy = Policy.from_layers(*_layers(wish))
    if wish.is_for_children:
        _prepare_children(wish)
    if wish.level:
        _log_to_stderr(wish.level)
    uninstall()  # what `run --children` around us has installed: now we are told anew
    install(policy)


def guard_child() -> None:
    """Guards a process that a program under `run --children` has started."""
    guard(Wish({}, os.environ.get(CONFIG, ""), os.environ.get(LOG, ""), is_for_children=False))


def _layers(wish: Wish) -> list[Layer]:
    layers = [environment_layer(os.environ), text_layer(wish.texts, "the command line")]
    if wish.config:
        from sockguard.cli.policy_file import read_policy_file  # noqa: PLC0415 - loads tomllib

        layers.insert(0, read_policy_file(wish.config))
    return layers


def _prepare_children(wish: Wish) -> None:
    if sys.flags.ignore_environment or sys.flags.no_site:
        raise UsageError("--children cannot work under python -E, -I or -S: leave that option away")
    theirs = os.environ.get("PYTHONPATH")
    folders = theirs.split(os.pathsep) if theirs else []  # an empty one among others is the working directory
    os.environ |= {
        "PYTHONPATH": os.pathsep.join([FOLDER, *(folder for folder in folders if folder != FOLDER)]),
        FOR_CHILDREN: "1",
        CONFIG: wish.config and os.path.abspath(wish.config),
        LOG: wish.level,
        **{variable_of(name): text for name, text in wish.texts.items()},
    }


def _log_to_stderr(level: str) -> None:
    import logging  # noqa: PLC0415 - the program may want none of it

    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    handler.setLevel(level)
    handler.addFilter(lambda _: not logging.getLogger().handlers)  # the program's own write it, and once is enough
    logger = logging.getLogger("sockguard")
    logger.addHandler(handler)
    logger.setLevel(level)
