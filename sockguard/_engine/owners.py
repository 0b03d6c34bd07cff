"""What does the code that owns a connection do just now? Asked for a few sick connections only.

The handler of an asyncio stream is found among the attributes of its protocol: the task
that is not done. (`_task` of StreamReaderProtocol, `_task_handler` of aiohttp; a private
name, so it is not asked for by name. `_client_connected_cb` is, where there is no task.)
The owner of a plain socket is the thread that has it in a local variable.
"""

import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

from sockguard._engine.attributes import attributes, type_name
from sockguard._engine.referrers import held_by, stacks, thread_with_local
from sockguard._engine.sites import main_line

__all__ = ["describe_owner", "held_by"]

MAX_AWAITS = 64


def describe_owner(*, transport: object = None, sock: object = None, thread_id: int | None = None) -> str | None:
    """Describes who owns a connection: "handle() waits at app.py:12 in fetch"; None if that cannot be told.

    Args:
        transport: Of asyncio or uvloop, if it has one.
        sock: Its socket object, to find the thread that works with it.
        thread_id: The thread that opened it, where nothing better is known.
    """
    try:
        told = _of_transport(transport) if transport is not None else None
    except Exception:  # noqa: BLE001 - protocols of others, read from another thread
        told = None
    worker = thread_with_local(sock) if sock is not None and not told else None
    return told or _of_thread(worker or thread_id)


def _of_transport(transport: Any) -> str | None:
    protocol = transport.get_protocol()
    protocol = getattr(protocol, "_app_protocol", None) or protocol  # below asyncio's TLS
    own = dict(attributes(protocol))
    tasks: list[Any] = [value for value in own.values() if _is_task(value)]
    waiting = next((task for task in tasks if not task.done()), None)
    if waiting is not None:
        return _of_task(waiting)
    handler = own.get("_client_connected_cb")
    if handler is not None:
        return f"{_name_of(handler)}() has ended"
    if type(protocol).__module__ == "asyncio.streams":
        return None  # a client's stream: whoever reads from it
    return f"protocol {type(protocol).__module__}.{type_name(type(protocol))}"


def _is_task(value: object) -> bool:
    return type(value).__module__ in ("_asyncio", "asyncio.tasks") and hasattr(value, "get_coro")


def _of_task(task: Any) -> str:
    coroutine = task.get_coro()
    line = main_line(reversed(list(_awaited_frames(coroutine))))
    return f"{_name_of(coroutine)}() waits at {line}" if line else f"{_name_of(coroutine)}() waits"


def _awaited_frames(awaited: Any) -> Iterator[FrameType]:
    """Yields the frames of a coroutine and of what it awaits, outermost first."""
    for _ in range(MAX_AWAITS):
        frame = getattr(awaited, "cr_frame", None) or getattr(awaited, "gi_frame", None)
        if frame is None:
            return
        yield frame
        awaited = getattr(awaited, "cr_await", None) or getattr(awaited, "gi_yieldfrom", None)


def _of_thread(thread: int | None) -> str | None:
    line = main_line(_stack(stacks().get(thread or 0)))
    return f"{_thread_name(thread)} is at {line}" if line else None


def _stack(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _thread_name(thread_id: int | None) -> str:
    """Names a thread; without threading.enumerate(), whose lock gevent may have made its own."""
    known = getattr(threading, "_active", {}).get(thread_id)
    return f"thread {known.name}" if known is not None else f"thread {thread_id}"


def _name_of(function: Any) -> str:
    name = getattr(function, "__qualname__", "") or type(function).__qualname__
    return str(name).rpartition("<locals>.")[2]
