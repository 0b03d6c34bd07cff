"""A server of transports and protocols on uvloop, whose sockets no Python object owns."""

import uvloop
from asyncio_protocol import main

if __name__ == "__main__":
    uvloop.run(main())
