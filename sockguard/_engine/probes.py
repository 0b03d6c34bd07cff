"""Does the kernel ask a silent peer whether it is still there? As the policy says, on whichever socket."""

import contextlib
from typing import Any

from sockguard._core.policy import Policy
from sockguard._kernel.keepalive import apply_keepalive

__all__ = ["keep_alive"]


def keep_alive(sock: Any, policy: Policy) -> None:
    """Turns keepalive on, if the policy wants it and the program has not; on the guard's thread."""
    if policy.keepalive is not None and policy.mode == "enforce":
        with contextlib.suppress(OSError):  # a sandbox refuses: then the kernel will find no dead peer
            apply_keepalive(sock, policy.keepalive)
