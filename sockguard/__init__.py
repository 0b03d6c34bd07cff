"""sockguard finds the TCP connections that a Python server forgot to close.

>>> import sockguard
>>> sockguard.find_leaks()
[]
"""

from sockguard._api import find_leaks
from sockguard._core.leaks import Cause, Leak
from sockguard.errors import InternalError, KernelUnavailable, SockguardError, UsageError

__version__ = "0.1.0"

__all__ = [
    "Cause",
    "InternalError",
    "KernelUnavailable",
    "Leak",
    "SockguardError",
    "UsageError",
    "__version__",
    "find_leaks",
]
