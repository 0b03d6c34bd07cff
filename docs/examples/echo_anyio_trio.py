"""An echo server of anyio on trio; who sends `wait` gets no echo, but news, when there are some."""

import argparse
import logging

import anyio
from anyio.abc import SocketAttribute

import sockguard.anyio


async def serve(stream: sockguard.anyio.GuardedStream) -> None:
    """Echoes until the client hangs up; the listener closes the stream when this returns or raises."""
    try:
        async for data in stream:
            if data.startswith(b"wait"):
                await anyio.sleep_forever()  # for news that never come; here nobody sees the client go
            await stream.send(data)
    except anyio.BrokenResourceError as error:
        logging.getLogger("echo").info("client lost: %s", error.__cause__)


async def main() -> None:
    """Serves for ever."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--fin-timeout", type=float, default=30, help="seconds")
    parser.add_argument("--idle-timeout", type=float, default=300, help="seconds")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    policy = sockguard.Policy(fin_timeout=options.fin_timeout, idle_timeout=options.idle_timeout)
    listener = await sockguard.anyio.create_tcp_listener(local_host="127.0.0.1", local_port=options.port, policy=policy)
    print("port", listener.extra(SocketAttribute.local_port), flush=True)  # noqa: S610 - that is Django's
    await listener.serve(serve)


if __name__ == "__main__":
    anyio.run(main, backend="trio")
