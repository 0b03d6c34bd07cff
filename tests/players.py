"""Threads that work for a fixture, whichever test runs meanwhile."""

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Self

__all__ = ["Players"]


class Players:
    """Threads that do what they are given, until the end of the `with` block, which waits for all of it.

    What they open belongs to whoever makes this object. (The threads of an executor are
    lent, so that what they open counts as that of the test that runs just then.)
    """

    def __init__(self, n_threads: int) -> None:
        self._waiting: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._threads = [threading.Thread(target=self._work) for _ in range(n_threads)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for _ in self._threads:
            self._waiting.put(None)
        for thread in self._threads:
            thread.join()

    def submit(self, do: Callable[..., Any], *args: object, **options: object) -> "Future[Any]":
        """Has something done as soon as a thread is free."""
        future: Future[Any] = Future()

        def settle() -> None:
            try:
                future.set_result(do(*args, **options))
            except BaseException as error:  # noqa: BLE001 - it is raised where the result is asked for
                future.set_exception(error)

        self._waiting.put(settle)
        return future

    def _work(self) -> None:
        while (settle := self._waiting.get()) is not None:
            settle()
            del settle  # and with it what the future refers to
