"""What the servers that guard themselves have in common: the policy of their connections, from the command line."""

import argparse

from sockguard import Policy

__all__ = ["policy_of"]


def policy_of(options: argparse.Namespace) -> Policy:
    """Makes the policy that was asked for."""
    return Policy.from_text(dict(word.split("=", 1) for word in options.policy))
