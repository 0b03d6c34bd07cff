"""An echo server of asyncio's protocols over TLS; who sends `wait` gets no echo, but tomorrow's news."""

import argparse
import asyncio
import logging
import ssl

import sockguard.aio


class Echo(asyncio.Protocol):
    """One connection."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begins."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Echoes; when the client hangs up, asyncio closes."""
        if data.startswith(b"wait"):
            self.transport.pause_reading()  # from here on nobody sees the client go
            asyncio.get_running_loop().call_later(86400, self.transport.write, b"the news\n")
        else:
            self.transport.write(data)


async def main() -> None:
    """Serves for ever."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("certificate", help="a PEM file of the server's key and certificate")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--fin-timeout", type=float, default=30, help="seconds")
    parser.add_argument("--idle-timeout", type=float, default=300, help="seconds")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    policy = sockguard.Policy(fin_timeout=options.fin_timeout, idle_timeout=options.idle_timeout)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(options.certificate)
    server = await sockguard.aio.create_server(Echo, "127.0.0.1", options.port, ssl=context, policy=policy)
    print("port", server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
