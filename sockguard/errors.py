"""The errors of sockguard, split by who must act.

    SockguardError
    ├── UsageError          you: an argument makes no sense; the message names value and remedy
    │   └── PolicyError     you: a field of the policy makes no sense
    ├── KernelUnavailable   the host: a feature is missing or refused here
    └── InternalError       us: the kernel said something that sockguard cannot read; file a bug

What the kernel itself refuses (a process that is gone, a permission) passes on as
the `OSError` that it is.
"""

__all__ = ["InternalError", "KernelUnavailable", "PolicyError", "SockguardError", "UsageError"]


class SockguardError(Exception):
    """Is the base of every error that sockguard raises on its own account."""


class UsageError(SockguardError, ValueError):
    """Is raised for an argument that makes no sense; the text names value and remedy."""


class PolicyError(UsageError):
    """Is raised for a field of the policy that makes no sense.

    Args:
        field: Its name ("fin_timeout", "keepalive.idle").
        value: What it was given.
        remedy: What to give instead.
        source: Where it was given ("SOCKGUARD_FIN_TIMEOUT"); empty for an argument in the code.
    """

    def __init__(self, field: str, value: object, remedy: str, source: str = "") -> None:
        super().__init__(field, value, remedy, source)
        self.field = field
        self.value = value
        self.remedy = remedy
        self.source = source

    def __str__(self) -> str:
        origin = f" (from {self.source})" if self.source else ""
        return f"{self.field}={_shown(self.value)}{origin} makes no sense: {self.remedy}"


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


LONGEST_VALUE = 80
"""Characters of a value in a message; a whole file could have been given."""


def _shown(value: object) -> str:
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - such as of a number with 5000 digits; the error must get out
        text = f"<{type(value).__name__}>"
    return text if len(text) <= LONGEST_VALUE else text[:LONGEST_VALUE] + "..."
