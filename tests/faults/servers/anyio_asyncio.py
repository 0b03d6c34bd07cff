"""anyio_trio.py on asyncio."""

import anyio
from anyio_trio import main

if __name__ == "__main__":
    anyio.run(main, backend="asyncio")
