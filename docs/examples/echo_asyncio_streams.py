"""An echo server of asyncio's streams; who sends `wait` gets no echo, but news, when there are some."""

import argparse
import asyncio
import logging

import sockguard.aio

NEWS = asyncio.Event()
"""Never comes, as many a thing that handlers wait for."""


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Echoes until the client hangs up; the writer is closed when this returns, raises or is cancelled."""
    while data := await reader.read(4096):
        if data.startswith(b"wait"):
            await NEWS.wait()  # here nobody sees the client go
        writer.write(data)
        await writer.drain()


async def main() -> None:
    """Serves for ever."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--fin-timeout", type=float, default=30, help="seconds")
    parser.add_argument("--idle-timeout", type=float, default=300, help="seconds")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    policy = sockguard.Policy(fin_timeout=options.fin_timeout, idle_timeout=options.idle_timeout)
    server = await sockguard.aio.start_server(serve, "127.0.0.1", options.port, policy=policy)
    print("port", server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
