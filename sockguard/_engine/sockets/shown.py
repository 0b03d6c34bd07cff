"""Who asks for the number of a guarded socket? A selector of ours may, and the number counts as nobody else's."""

from types import TracebackType

from sockguard._engine.sockets.guarded import A_SELECTOR, Guarded

__all__ = ["ShownToSelector"]


class ShownToSelector:
    """Lets a selector of ours ask for the number of whatever it is given, which then counts as known to that only."""

    __slots__ = ("_before", "_sock")

    def __init__(self, fileobj: object) -> None:
        self._sock = fileobj if isinstance(fileobj, Guarded) else None

    def __enter__(self) -> None:
        if self._sock is not None:
            self._before = max(self._sock._known_to, A_SELECTOR)  # noqa: SLF001 - one of us

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        if self._sock is not None:
            self._sock._known_to = self._before  # noqa: SLF001
