"""The same greeting as an ASGI and as a WSGI application."""

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

__all__ = ["asgi", "wsgi"]

BODY = b"hello\n"
LENGTH = str(len(BODY))


async def asgi(scope: dict[str, Any], _receive: object, send: Callable[[dict[str, Any]], Awaitable[None]]) -> None:
    """Answers each request; refuses the lifespan protocol by ending, as the specification allows."""
    if scope["type"] != "http":
        return
    headers = [(b"content-type", b"text/plain"), (b"content-length", LENGTH.encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": BODY})


def wsgi(_environ: dict[str, Any], start_response: Callable[[str, list[tuple[str, str]]], object]) -> Iterable[bytes]:
    """Answers each request."""
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", LENGTH)])
    return [BODY]
