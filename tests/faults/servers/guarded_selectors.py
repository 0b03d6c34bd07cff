"""selectors_loop.py with `sockguard.GuardedSelector`."""

import argparse

import common
import selectors_loop
from explicit import policy_of

import sockguard


def guard(options: argparse.Namespace) -> None:
    """Puts the guarded selector in the place of the plain one."""
    selectors_loop.selector = sockguard.GuardedSelector(policy=policy_of(options))


if __name__ == "__main__":
    common.on_start.append(guard)
    selectors_loop.main()
