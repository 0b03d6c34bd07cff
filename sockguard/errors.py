"""The errors of sockguard, split by who must act.

    SockguardError
    ├── UsageError          you: an argument makes no sense; the message names value and remedy
    ├── KernelUnavailable   the host: a feature is missing or refused here
    └── InternalError       us: the kernel said something that sockguard cannot read; file a bug

What the kernel itself refuses (a process that is gone, a permission) passes on as
the `OSError` that it is.
"""

__all__ = ["InternalError", "KernelUnavailable", "SockguardError", "UsageError"]


class SockguardError(Exception):
    """Is the base of every error that sockguard raises on its own account."""


class UsageError(SockguardError, ValueError):
    """Is raised for an argument that makes no sense; the text names value and remedy."""


class KernelUnavailable(SockguardError):
    """Is raised where this system lacks, or refuses, something that was asked for.

    Args:
        feature: What was asked for ("sock_diag netlink").
        reason: Why it cannot be had here ("refused by seccomp: EPERM").
        remedy: What the user can do about it.
    """

    def __init__(self, feature: str, reason: str, remedy: str) -> None:
        super().__init__(feature, reason, remedy)
        self.feature = feature
        self.reason = reason
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.feature} is not available: {self.reason}. {self.remedy}"


class InternalError(SockguardError):
    """Is raised when bytes or text from the kernel do not have the expected form."""
