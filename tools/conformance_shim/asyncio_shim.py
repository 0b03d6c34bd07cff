#!/usr/bin/env python3
"""CPython's own tests of asyncio's servers, streams and TLS, plain and with sockguard.aio: no outcome may change.

    tools/conformance_shim/asyncio_shim.py [MODULE...]     # such as test_streams

Run it with each interpreter that is to be tried, with sockguard and what it needs on PYTHONPATH.
What is swapped are the functions of `asyncio` and the methods of its event loops that open
connections. Each module is a process of its own.

Exit status 0: nothing changed but what is expected, or it could not be run here, which is said
aloud; 1: something changed.
"""

import functools
import importlib
import sys
from collections.abc import Callable
from typing import Any

from side_by_side import Shim

MODULES = (
    *("test_streams", "test_server", "test_ssl", "test_sslproto", "test_buffered_proto", "test_sendfile"),
    *("test_events", "test_base_events", "test_selector_events", "test_unix_events", "test_pep492", "test_context"),
)
FUNCTIONS = ("start_server", "start_unix_server", "open_connection", "open_unix_connection")
METHODS = ("create_server", "create_connection")

EXPECTED: dict[str, str] = {
    # Its handler deletes the writer and wants the warning of a StreamWriter's death, which Python 3.13 has brought.
    "test_unclosed_server_resource_warnings": "a writer is kept until its handler ends, to be closed with a drain then",
}
"""Part of a test's name -> why its outcome changes."""

n_calls = [0]


def swap() -> None:
    """Puts our functions under the names of asyncio's."""
    import asyncio  # noqa: PLC0415 - the plain side has it from its tests alone

    from sockguard import aio  # noqa: PLC0415 - the plain side must not load it
    from sockguard._engine.current import shared_guard  # noqa: PLC0415

    shared_guard()  # some tests count threads, before and after
    for name in FUNCTIONS:
        ours = counted(getattr(aio, name))
        for module in (asyncio, asyncio.streams):
            setattr(module, name, ours)
    for name in METHODS:
        original = getattr(asyncio.BaseEventLoop, name)
        setattr(asyncio.BaseEventLoop, name, method(original, counted(getattr(aio, name))))


def counted(function: Callable[..., Any]) -> Callable[..., Any]:
    """Counts the calls of a function."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - whatever it takes
        n_calls[0] += 1
        return function(*args, **kwargs)

    return call


def method(original: Callable[..., Any], ours: Callable[..., Any]) -> Callable[..., Any]:
    """Makes a method of an event loop that calls our function, but where that calls the method itself."""

    @functools.wraps(original)
    async def call(loop: Any, factory: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        if getattr(factory, "__module__", "").startswith("sockguard."):
            return await original(loop, factory, *args, **kwargs)
        return await ours(factory, *args, **kwargs)

    return call


SHIM = Shim(
    __file__,
    ours="sockguard.aio",
    expected=EXPECTED,
    swap=swap,
    load=lambda part: importlib.import_module(f"test.test_asyncio.{part}"),
    n_used=lambda: n_calls[0],
)

if __name__ == "__main__":
    words = sys.argv[1:]
    sys.exit(SHIM.main(words, words or MODULES))
